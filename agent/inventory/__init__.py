# SPDX-License-Identifier: GPL-3.0-or-later
"""What is there: one module a subject, put together by `collect`. Nothing here writes."""
