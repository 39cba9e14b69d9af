# SPDX-License-Identifier: GPL-3.0-or-later
"""Hypervisor hosts: one adapter a kind, each a module that is loaded when it is wanted."""
