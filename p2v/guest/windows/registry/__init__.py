# SPDX-License-Identifier: GPL-3.0-or-later
"""The Windows registry as bytes: hives, their logs, and what differs between two of them.

All of it is hostile: it comes from a guest's disk. These modules read within bounds and never write
to a guest; hives are changed by hivex, inside the appliance (`p2v.guest.windows.registry.editor`).
Specification: Maxim Suhanov, "Windows registry file format specification",
https://github.com/msuhanov/regf (section names below are its own).
"""
