# SPDX-License-Identifier: GPL-3.0-or-later
"""Small disks that look like a Linux server's, made without mounting anything.

Their kernel has every driver built in, so that nothing has to be run in them: what is real are the
partition table, the file system, and all that a conversion reads and writes there.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from p2v.guest.linux.drivers import ALL
from p2v.model.units import MiB

UUID = "6fb1e02e-bf9e-4af4-bd22-1c9b2a95ca76"
START = 1 * MiB
SIZE = 64 * MiB
KERNEL = "6.1.0-9-amd64"
_MENU = f"""menuentry 'Debian' {{
\tlinux /boot/vmlinuz-{KERNEL} root=/dev/loop1p3 ro console=ttyS0
}}
"""
FILES = {
    "etc/os-release": 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
    "etc/debian_version": "12.5\n",
    "etc/hostname": "phony\n",
    "etc/fstab": "/dev/sda1 / ext4 defaults 0 1\nUUID=0bad /backup ext4 defaults 0 2\n",
    "etc/network/interfaces": "auto eno1\niface eno1 inet static\n address 192.0.2.7/24\n",
    "boot/grub/grub.cfg": _MENU,
    f"boot/vmlinuz-{KERNEL}": "a kernel\n",
    f"lib/modules/{KERNEL}/modules.dep": "",
    f"lib/modules/{KERNEL}/modules.builtin": "".join(f"kernel/x/{name}.ko\n" for name in ALL),
    "usr/lib/systemd/systemd-udevd": "",
    "usr/share/x": "",
    "home/x": "",
    "var/lib/dpkg/status": "",
}  # fmt: skip


def make_tree(folder: Path, files: Mapping[str, str] | None = None) -> Path:
    """Write the files of a phony guest; `files` are put over the usual ones."""
    for name, text in {**FILES, **(files or {})}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "bin").mkdir(exist_ok=True)
    shutil.copy("/bin/ls", folder / "bin/ls")  # tells for which processor it is
    return folder


def make_disk(path: Path, tree: Path, size: int = SIZE) -> Path:
    """Make a disk with one ext4 partition that holds `tree`."""
    with path.open("wb") as file:
        file.truncate(START + size + MiB)
    run("sfdisk", "-q", str(path), stdin=f"label: dos\nstart=2048, size={size // 512}, type=83\n")
    ext4 = ["mke2fs", "-q", "-F", "-t", "ext4", "-U", UUID, "-d", str(tree)]
    run(*ext4, "-E", f"offset={START}", str(path), f"{size // 1024}k")
    return path


def read_file(disk: Path, name: str) -> str:
    """Return a file of the disk's file system, by e2fsprogs' own reader."""
    return run("debugfs", "-R", f"cat {name}", f"{disk}?offset={START}")


def run(*argv: str, stdin: str = "") -> str:
    """Run a program; return what it printed."""
    done = subprocess.run(
        argv, input=stdin, capture_output=True, text=True, check=True, timeout=300
    )
    return done.stdout
