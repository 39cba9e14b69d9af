# SPDX-License-Identifier: GPL-3.0-or-later
"""A Debian 11 server under QEMU, with its own Linux 5.10: its root on LVM on an md mirror.

This machine's kernel may have no device-mapper: the disks are made in libguestfs's appliance. What
is to be done in the guest comes as a script on a further disk; what it prints is the result.
"""

from __future__ import annotations

import os
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.running import tool

CACHE = Path(__file__).parents[2] / ".cache"
GUEST_S = 3000
MEMORY_MIB = 768
_PACKAGES = (
    "linux-image-cloud-amd64,systemd-sysv,udev,initramfs-tools,lvm2,mdadm,iproute2,e2fsprogs,"
    "xfsprogs,dosfstools,thin-provisioning-tools,kmod"
)
# The kernel of its release; that of the security archive is of a kind too, and changes.
_SOURCE = "deb http://deb.debian.org/debian bullseye main"
_JOB = """[Unit]
Description=What a test wants
After=local-fs.target
[Service]
Type=oneshot
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
ExecStart=/bin/sh -c 'mkdir -p /run/job; tar -xf /dev/disk/by-id/virtio-job -C /run/job; \
cd /run/job; sh run.sh; echo job-status=$?; sync; poweroff -f'
[Install]
WantedBy=multi-user.target
"""
_FSTAB = """/dev/mapper/vg0-root / ext4 defaults 0 1
/dev/mapper/vg0-data /data ext4 defaults,nofail 0 0
/dev/mapper/vg1-home /home ext4 defaults,nofail 0 0
LABEL=boot /boot ext4 defaults,nofail 0 0
LABEL=EFI /efi vfat defaults,nofail 0 0
"""
# Disks a and b: a mirror that holds vg0, and beside it on a an ESP, which knows no freezing.
# Disk c: an ordinary partition, and vg1 with room to spare.
_MAKE = """
part-init /dev/sda gpt
part-add /dev/sda p 2048 2934783
part-add /dev/sda p 2934784 3069951
part-init /dev/sdb gpt
part-add /dev/sdb p 2048 2934783
md-create mirror "/dev/sda1 /dev/sdb1" level:raid1
part-init /dev/sdc gpt
part-add /dev/sdc p 2048 133119
part-add /dev/sdc p 133120 -2048
pvcreate /dev/md127
vgcreate vg0 /dev/md127
lvcreate root vg0 1100
lvcreate data vg0 312
pvcreate /dev/sdc2
vgcreate vg1 /dev/sdc2
lvcreate home vg1 200
mkfs ext4 /dev/vg0/root
mkfs ext4 /dev/vg0/data
mkfs ext4 /dev/vg1/home
mkfs ext4 /dev/sdc1 label:boot
mkfs vfat /dev/sda2 label:EFI
mount /dev/vg0/root /
tar-in {tree} /
mkdir-p /data
mkdir-p /efi
mount /dev/vg0/data /data
mkdir-p /boot
mount /dev/sdc1 /boot
copy-in {boot} /
write /etc/hostname "old01\\n"
upload {fstab} /etc/fstab
upload {job} /etc/systemd/system/job.service
ln-s /etc/systemd/system/job.service /etc/systemd/system/multi-user.target.wants/job.service
ln-sf /dev/null /etc/systemd/system/serial-getty@ttyS0.service
umount-all
"""


@dataclass(frozen=True, slots=True)
class Guest:
    """What QEMU is given: kernel and initramfs of the guest's own, and its disks, a to c."""

    kernel: Path
    initrd: Path
    disks: tuple[Path, ...]

    def run(
        self, script: str, files: Mapping[str, Path], room: Path, *, disks: Sequence[Path] = ()
    ) -> str:
        """Boot, run `script` with `files` beside it, and return what the console said.

        Changes to the disks are kept; `disks` are booted instead of the guest's own.
        """
        job = room / "job.tar"
        (room / "run.sh").write_text(script)
        with tarfile.open(job, "w") as archive:
            for name, path in {**files, "run.sh": room / "run.sh"}.items():
                archive.add(path, arcname=name)
        os.truncate(job, -(-job.stat().st_size // 4096) * 4096)
        drives = [_drive(disk, f"disk{n}") for n, disk in enumerate(disks or self.disks)]
        drives.append(_drive(job, "job"))
        argv = [
            *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"),
            *("-m", str(MEMORY_MIB), "-nic", "user,model=virtio", "-nographic", "-no-reboot"),
            *("-kernel", str(self.kernel), "-initrd", str(self.initrd)),
            *("-append", "root=/dev/mapper/vg0-root ro console=ttyS0 quiet panic=-1"),
            *(word for words in drives for word in words),
        ]
        console = room / "console.log"
        with console.open("wb") as log:
            subprocess.run(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=GUEST_S, check=True
            )
        said = console.read_text(errors="replace")
        assert "job-status=0" in said, said[-6000:]
        return said


def _drive(path: Path, name: str) -> list[str]:
    """Attach a disk; they are vda, vdb and so on in the order of the command line."""
    form = {".qcow2": "qcow2", ".vhdx": "vhdx"}.get(path.suffix, "raw")
    drive = f"file={path},format={form},if=none,id={name},discard=unmap"
    return ["-drive", drive, "-device", f"virtio-blk-pci,drive={name},serial={name}"]


def inside(image: Path, volume: str, path: str) -> str:
    """Return what the file `path` on a logical volume of a raw image holds; replays its journal."""
    script = f"run\nmount /dev/{volume} /\ncat {path}\n"
    return _guestfish(["--format=raw", "-a", str(image)], script)


def broken_files(image: Path, volume: str) -> list[str]:
    """Return the files of packages on a Debian's root in a raw image that are not as they were."""
    script = f'run\ne2fsck /dev/{volume} correct:true\nmount /dev/{volume} /\nsh "dpkg --verify"\n'
    lines = _guestfish(["--format=raw", "-a", str(image)], script).splitlines()
    return [line for line in lines if line.strip() and " c /" not in line]


def tree() -> Path:
    """Return an archive of Debian 11's files; it is made once, then kept."""
    made = CACHE / "debian-11-lvm" / "tree.tar"
    made.parent.mkdir(parents=True, exist_ok=True)
    if not made.exists():
        new = made.with_name("tree.new.tar")
        options = ("--quiet", "--variant=minbase", "--format=tar", f"--include={_PACKAGES}")
        subprocess.run(["mmdebstrap", *options, "bullseye", new, _SOURCE], check=True)
        new.rename(made)
    return made


def guest(room: Path) -> Guest:
    """Return the guest, with fresh copies of its disks in `room`; it is built once, then kept."""
    built = CACHE / "debian-11-lvm"
    names = ("a.img", "b.img", "c.img")
    if not (built / "c.img").exists():
        _build(built, names)
    for name in names:
        tool("cp", "--sparse=always", built / name, room / name)
    return Guest(built / "vmlinuz", built / "initrd.img", tuple(room / name for name in names))


def _build(built: Path, names: Sequence[str]) -> None:
    boot = built / "boot"
    tool("tar", "-xf", tree(), "-C", built, "./boot")
    for name in ("vmlinuz", "initrd.img"):
        (found,) = boot.glob(f"{name}-*")
        tool("cp", found, built / name)
    (built / "fstab").write_text(_FSTAB)
    (built / "job.service").write_text(_JOB)
    making = [built / f"{name}.new" for name in names]
    for path, mib in zip(making, (1500, 1500, 512), strict=True):
        path.unlink(missing_ok=True)
        with path.open("wb") as file:
            file.truncate(mib << 20)
    script = _MAKE.format(tree=tree(), boot=boot, fstab=built / "fstab", job=built / "job.service")
    drives = [word for path in making for word in ("-a", str(path))]
    _guestfish(["--format=raw", *drives], f"run\n{script}")
    for path in making:
        path.rename(path.with_suffix(""))


def _guestfish(options: Sequence[str], script: str) -> str:
    """Run a script in libguestfs's appliance; return what it prints."""
    appliance = {
        "LIBGUESTFS_BACKEND": "direct",
        "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg",
        "LIBGUESTFS_MEMSIZE": "768",
    }
    done = subprocess.run(
        ["guestfish", *options],
        input=script,
        env=os.environ | appliance,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=GUEST_S,
    )
    return done.stdout
