# SPDX-License-Identifier: GPL-3.0-or-later
"""The one build step that pyproject.toml cannot say: the tracker's object for the kernel.

It is compiled by clang and lands beside the extension that loads it, in wheels, editable installs
and sanitizer builds alike.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext

SOURCE = Path("native/tracker/tracker.bpf.c")
FLAGS = ("-O2", "-g", "-Wall", "-Wextra", "-Werror", "-target", "bpf", "-mcpu=v3")


def headers() -> list[str]:
    """Return where Linux's headers are on systems that keep some of them by architecture."""
    found = subprocess.run(["gcc", "-print-multiarch"], capture_output=True, text=True, check=True)
    folder = Path("/usr/include", found.stdout.strip())
    return ["-I", str(folder)] if found.stdout.strip() else []


class Build(build_ext):
    """Builds the extensions and the object that `native._tracker` loads into the kernel."""

    def run(self) -> None:
        """Build all."""
        super().run()
        if (clang := shutil.which("clang")) is None:
            print(
                "clang is missing: the change tracker does without typed programs", file=sys.stderr
            )
            return
        argv = [clang, *FLAGS, *headers(), "-c", str(SOURCE), "-o", str(self.object)]
        subprocess.run(argv, check=True)

    @property
    def object(self) -> Path:
        """Where the object goes."""
        return Path(self.get_ext_fullpath("native._tracker")).with_name("tracker.bpf.o")

    def get_outputs(self) -> list[str]:
        """List what is built, for the installer."""
        built = [str(self.object)] if self.object.exists() else []
        return [*super().get_outputs(), *built]


setup(cmdclass={"build_ext": Build})
