# SPDX-License-Identifier: GPL-3.0-or-later
"""The strict validator of images. It imports nothing from the readers and writers."""

from p2v.images.check.image import check_image, inspect_image
from p2v.images.check.report import Finding, ImageInfo, Report, Severity

__all__ = [
    "Finding",
    "ImageInfo",
    "Report",
    "Severity",
    "check_image",
    "inspect_image",
]
