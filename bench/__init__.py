# SPDX-License-Identifier: GPL-3.0-or-later
"""Benchmarks: every figure that the README quotes, side by side with a peer in one run."""
