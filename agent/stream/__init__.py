# SPDX-License-Identifier: GPL-3.0-or-later
"""From blocks of a disk to durable frames on the converter: work, lanes, connections."""
