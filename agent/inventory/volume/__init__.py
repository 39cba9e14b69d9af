# SPDX-License-Identifier: GPL-3.0-or-later
"""What file systems say of themselves in their first structures: used space, and clean or not.

Each module reads one format through a bounded `Window` and answers with a `State`. Contents of
files and directories are never parsed (but for finding Windows' hibernation file); damage of any
kind is a `VolumeDamagedError`, never a wrong answer.
"""
