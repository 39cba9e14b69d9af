# SPDX-License-Identifier: GPL-3.0-or-later
"""Images in the format that a host takes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from p2v.model.errors import ToolError
from p2v.model.plan import ImageFormat

_OPTIONS = {
    "vhdx": ("-O", "vhdx", "-o", "subformat=dynamic"),
    "qcow2": ("-O", "qcow2"),
    "raw": ("-O", "raw"),
    "vmdk": ("-O", "vmdk", "-o", "subformat=streamOptimized,adapter_type=lsilogic"),
}
"""What qemu-img is told for each file name extension of p2v.script."""


def needs_conversion(format_: ImageFormat, extension: str) -> bool:
    """Return whether images of a migration are not what the host takes."""
    return format_.value != extension


def convert(image: Path, format_: ImageFormat, target: Path) -> None:
    """Write `image` to `target` in the format of its extension; `target` is whole or not there.

    Raises:
        ToolError: qemu-img is missing or fails.
    """
    part = target.with_name(f"{target.name}.part")
    command = ["qemu-img", "convert", "-f", format_.value]
    command += [*_OPTIONS[target.suffix.removeprefix(".")], str(image), str(part)]
    try:
        subprocess.run(command, check=True, capture_output=True, env=os.environ | {"LC_ALL": "C"})
        part.rename(target)
    except FileNotFoundError:
        raise ToolError(tool="qemu-img", problem="it is not installed") from None
    except subprocess.CalledProcessError as error:
        part.unlink(missing_ok=True)
        problem = error.stderr.decode(errors="replace").strip() or f"exit code {error.returncode}"
        raise ToolError(tool="qemu-img", problem=problem) from error
