# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian servers as their disks are found in the field, built here and kept in `.cache/guests`.

Each is a real system: partitions, boot loader and initramfs are made by the release's own programs
in a chroot. The kernel of the machine that builds needs neither device-mapper nor vfat: logical
volumes are laid out by `lvcreate` and filled through their offset, encrypted ones are filled by
qemu-img, and the EFI system partition by mtools.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from p2v.guest.rehearsal.verdict import Outcome
from p2v.model.units import MiB
from tests.e2e.running import run, tool

CACHE = Path(__file__).parents[2] / ".cache" / "guests"
PASSPHRASE = "correct horse"
MAC = "52:54:00:12:34:56"
ADDRESS = "192.0.2.10"
SIZE = 2560 * MiB

_PACKAGES = (
    "linux-image-amd64,initramfs-tools,grub-pc-bin,grub2-common,grub-efi-amd64-bin,"
    "grub-efi-amd64-signed,shim-signed,systemd-sysv,udev,dbus,iproute2,kmod,e2fsprogs,xfsprogs,"
    "btrfs-progs,lvm2,cryptsetup-initramfs,console-setup,ca-certificates,zstd"
)
_STATIC = f"auto eno1\niface eno1 inet static\n    address {ADDRESS}/24\n"
_LEFT_OUT = ("doc", "man", "locale")
_ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
_BIOS_BOOT = "21686148-6449-6e6f-744e-656564454649"
_NETWORK_PACKAGES = {
    "ifupdown": ("ifupdown",),
    "netplan": ("netplan.io",),
    "NetworkManager": ("network-manager",),
}


@dataclass(frozen=True, slots=True)
class Guest:
    """A server.

    Attributes:
        name: its host name, and its image's.
        release: of Debian.
        unconverted: where it ends in a VM as it is.
        uefi: UEFI and GPT, else BIOS and MBR.
        fallback: whether its ESP holds EFI/BOOT/BOOTX64.EFI.
        root: the root file system's kind.
        boot: whether /boot is a partition of its own.
        layer: what the root file system lies on: "", "lvm" or "luks".
        initramfs: "most", "dep" (made for a server with a MegaRAID) or "dracut" (host-only).
        disk: the name of its disk, if it is found by that; "" for by UUID.
        network: what gives eno1 its static address.
        serial: whether its console is also the serial one.
        left_out: whether fstab has a line for a partition that was not copied.
    """

    name: str
    release: str
    unconverted: Outcome
    uefi: bool = False
    fallback: bool = True
    root: str = "ext4"
    boot: bool = False
    layer: str = ""
    initramfs: str = "most"
    disk: str = ""
    network: str = "ifupdown"
    serial: bool = False
    left_out: bool = False


def build(guest: Guest) -> Path:
    """Return the raw disk of a guest, built if it is not there yet; nobody may write to it."""
    disk = CACHE / f"{guest.name}.img"
    if not disk.exists():
        disk.parent.mkdir(parents=True, exist_ok=True)
        new = disk.with_suffix(".new")
        with ExitStack() as stack:
            stack.callback(new.unlink, missing_ok=True)
            _Builder(guest, new, stack).build()
            new.rename(disk)
    return disk


QUICK_DISK = Path(__file__).parents[2] / ".cache" / "web01.img"


def build_quick() -> Path:
    """Return the raw disk (GPT, BIOS boot) of the Debian 12 server `web01`, built once by the demo.

    Nobody may write to it. It starts as it is, to a login on screen and serial console; root has no
    password. Its initramfs holds every driver (MODULES=most), so its conversion for Hyper-V takes
    a minute or two under emulation, and so does its start.
    """
    tool(Path(__file__).parents[2] / "demo" / "debian-disk.sh", QUICK_DISK)
    return QUICK_DISK


def make_quick(disk: Path) -> Path:
    """Make `disk` a copy of `build_quick`'s that starts in no VM, and is quick to convert.

    What a conversion has to mend: GRUB and fstab name the root /dev/sdb3 (unconverted it ends in
    the initramfs's shell); fstab has a line for a partition that was left out; eno1 has the static
    address `ADDRESS`, and the VM's card another name (give it `MAC`).
    """
    tool("cp", "--sparse=always", build_quick(), disk)
    with tempfile.TemporaryDirectory(prefix="p2v-guest.") as name, _attached(disk) as whole:
        root = Path(name)
        tool("mount", f"{whole}p3", root)
        try:
            uuid = _uuid(f"{whole}p3")
            menu, fstab = root / "boot/grub/grub.cfg", root / "etc/fstab"
            menu.write_text(menu.read_text().replace(f"root=UUID={uuid}", "root=/dev/sdb3"))
            kept = fstab.read_text().replace(f"UUID={uuid}", "/dev/sdb3")
            fstab.write_text(f"{kept}/dev/sdc1 /srv/backup ext4 defaults 0 2\n")
            lines = f"auto lo\niface lo inet loopback\n{_STATIC}"
            (root / "etc/network/interfaces").write_text(lines)
        finally:
            tool("umount", root)
    return disk


def tree(release: str) -> Path:
    """Return a tar of a Debian release, made if it is not there yet."""
    tar = CACHE / f"{release}.tar"
    if not tar.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        new = tar.with_suffix(".tar.new")
        left_out = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _LEFT_OUT]
        options = ["--variant=minbase", "--aptopt=APT::Install-Recommends false", *left_out]
        run = ["mmdebstrap", "--quiet", "--format=tar", *options, f"--include={_PACKAGES}"]
        subprocess.run([*run, release, new], check=True, capture_output=True, timeout=1500)
        new.rename(tar)
    return tar


class _Builder:
    """Builds one guest; what it attaches and mounts ends with `stack`."""

    def __init__(self, guest: Guest, disk: Path, stack: ExitStack) -> None:
        self.guest = guest
        self.disk = disk
        self.stack = stack
        self.work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="p2v-guest.")))
        self.root = self.work / "root"
        self.starts: dict[str, tuple[int, int]] = {}
        self.numbers: dict[str, int] = {}
        self.uuids: dict[str, str] = {}
        self.plain = self.work / "plain"

    def build(self) -> None:
        self._partition()
        with ExitStack() as self.mounts:
            self.whole = self.mounts.enter_context(_attached(self.disk))
            self._file_systems()
            tar = tree(self.guest.release)
            options = ["--numeric-owner", "--xattrs", "--xattrs-include=*"]
            tool("tar", "-C", self.root, "-xpf", tar, *options)
            self._configure()
            with self._chroot():
                self._install()
                self._make_initramfs()
            self._make_bootable()
        if self.guest.layer == "luks":
            self._encrypt()

    # --- disk

    def _partition(self) -> None:
        guest = self.guest
        parts = []
        if guest.uefi:
            parts.append(("esp", "32MiB", _ESP))
        elif guest.layer or guest.boot:
            parts.append(("bios", "1MiB", _BIOS_BOOT))
        if guest.boot or guest.layer:
            parts.append(("boot", "160MiB", "linux"))
        parts.append(("root", "", "linux"))
        gpt = parts[0][0] != "root"
        lines = [f"label: {'gpt' if gpt else 'dos'}"]
        for number, (name, size, kind) in enumerate(parts, 1):
            self.numbers[name] = number
            lines.append((f"size={size}, " if size else "") + f"type={kind if gpt else '83'}")
        with self.disk.open("wb") as file:
            file.truncate(SIZE)
        script = "\n".join(lines) + "\n"
        subprocess.run(["sfdisk", "-q", self.disk], input=script, text=True, check=True)
        table = json.loads(tool("sfdisk", "-J", self.disk))["partitiontable"]["partitions"]
        for name, number in self.numbers.items():
            entry = table[number - 1]
            self.starts[name] = (entry["start"] * 512, entry["size"] * 512)

    def _file_systems(self) -> None:
        """Make and mount the file systems."""
        guest = self.guest
        if "esp" in self.numbers:
            with self._loop(*self.starts["esp"]) as esp:
                tool("mkfs.vfat", "-n", "ESP", esp)
                self.uuids["esp"] = _uuid(esp)
        device = self._root_device()
        make = {"ext4": ["mkfs.ext4", "-q"], "xfs": ["mkfs.xfs", "-q"], "btrfs": ["mkfs.btrfs"]}
        tool(*make[guest.root], device)
        self.uuids["root"] = _uuid(device)
        self.root.mkdir()
        if guest.root == "btrfs":
            tool("mount", device, self.root)
            for name in ("@", "@home"):
                tool("btrfs", "subvolume", "create", self.root / name)
            tool("umount", self.root)
        self._mount(device, self.root, "subvol=@" if guest.root == "btrfs" else "defaults")
        if guest.root == "btrfs":
            self._mount(device, self.root / "home", "subvol=@home")
        if "boot" in self.numbers:
            boot = f"{self.whole}p{self.numbers['boot']}"
            tool("mkfs.ext4", "-q", boot)
            self.uuids["boot"] = _uuid(boot)
            self._mount(boot, self.root / "boot")

    def _root_device(self) -> str:
        """Return the device that the root file system is made on."""
        start, size = self.starts["root"]
        if not self.guest.layer:
            return f"{self.whole}p{self.numbers['root']}"
        container = self.mounts.enter_context(self._loop(start, size))
        if self.guest.layer == "lvm":
            return self._logical_volume(container, start)
        return self._container(container, size)

    def _logical_volume(self, device: str, start: int) -> str:
        """Lay out vg0/root without device-mapper, and return a device of its place."""
        config = f'devices {{ filter=["a|^{device}$|","r|.*|"] }} global {{ activation=0 }}'
        tool("pvcreate", "-q", "--config", config, device)
        tool("vgcreate", "-q", "--config", config, "vg0", device)
        flags = ["-an", "-Zn", "-Wn", "-y", "-q", "-l", "100%FREE", "-n", "root"]
        tool("lvcreate", "--config", config, *flags, "vg0")
        columns = ["--noheadings", "--nosuffix", "--units", "b", "-o"]
        pv = tool("pvs", "--config", config, *columns, "pe_start", device)
        lv = tool("lvs", "--config", config, *columns, "lv_size", "vg0/root")
        return self.mounts.enter_context(self._loop(start + int(pv), int(lv)))

    def _container(self, device: str, size: int) -> str:
        """Make an encrypted volume; return a device for its contents, as yet in the clear."""
        header = self.work / "luks"
        with header.open("wb") as file:
            file.truncate(0)
        # The payload is what is left of the partition: qemu-img tells after the fact how much.
        trial = _luks_create(header, 64 * MiB)
        payload = size - (trial - 64 * MiB)
        header.unlink()
        assert _luks_create(header, payload) == size
        tool("dd", f"if={header}", f"of={device}", "bs=1M", "conv=sparse,notrunc", "status=none")
        self.uuids["luks"] = _uuid(device)
        links = Path("/dev/disk/by-uuid")
        links.mkdir(parents=True, exist_ok=True)
        link = links / self.uuids["luks"]
        link.unlink(missing_ok=True)
        link.symlink_to(device)
        self.mounts.callback(link.unlink)
        with self.plain.open("wb") as file:
            file.truncate(payload)
        return self.mounts.enter_context(_loop(self.plain, 0, payload))

    def _encrypt(self) -> None:
        """Fill the encrypted volume with what was made in the clear."""
        start, size = self.starts["root"]
        target = (
            f"driver=luks,key-secret=key,file.driver=raw,file.offset={start},file.size={size},"
            f"file.file.driver=file,file.file.filename={self.disk}"
        )
        secret = f"secret,id=key,data={PASSPHRASE}"
        words = ["-n", "--object", secret, "--target-image-opts", "-f", "raw"]
        tool("qemu-img", "convert", *words, self.plain, target)

    # --- system

    def _configure(self) -> None:
        guest, uuids = self.guest, self.uuids
        options = "subvol=@" if guest.root == "btrfs" else "defaults"
        lines = [f"{self._named('root')} / {guest.root} {options} 0 1"]
        if guest.root == "btrfs":
            lines.append(f"UUID={uuids['root']} /home btrfs subvol=@home 0 0")
        if "boot" in self.numbers:
            lines.append(f"{self._named('boot')} /boot ext4 defaults 0 2")
        if guest.uefi:
            lines.append(f"UUID={uuids['esp']} /boot/efi vfat umask=0077 0 1")
            self._mkdir("boot/efi")
        if guest.left_out:
            lines.append("/dev/sdc1 /srv/backup ext4 defaults 0 2")
            self._mkdir("srv/backup")
        self._write("etc/fstab", "\n".join(lines) + "\n")
        if guest.layer == "luks":
            entry = f"cryptroot UUID={uuids['luks']} none luks,initramfs\n"
            self._write("etc/crypttab", entry)
        self._write("etc/hostname", f"{guest.name}\n")
        self._write("etc/hosts", f"127.0.0.1 localhost {guest.name}\n")
        console = "console=tty0 console=ttyS0,115200" if guest.serial else ""
        by_name = "GRUB_DISABLE_LINUX_UUID=true\n" if guest.disk else ""
        text = f'GRUB_DEFAULT=0\nGRUB_TIMEOUT=1\nGRUB_CMDLINE_LINUX="{console}"\n{by_name}'
        self._write("etc/default/grub", text)
        self._configure_network()

    def _configure_network(self) -> None:
        if self.guest.network == "ifupdown":
            loopback = "auto lo\niface lo inet loopback\n"
            self._write("etc/network/interfaces", f"{loopback}\n{_STATIC}")
        elif self.guest.network == "netplan":
            body = f"    eno1:\n      addresses: [{ADDRESS}/24]\n      optional: true\n"
            text = f"network:\n  version: 2\n  renderer: networkd\n  ethernets:\n{body}"
            self._write("etc/netplan/01-lan.yaml", text, 0o600)
        else:
            head = "[connection]\nid=lan\ntype=ethernet\ninterface-name=eno1\n"
            text = f"{head}\n[ipv4]\nmethod=manual\naddress1={ADDRESS}/24\n"
            path = "etc/NetworkManager/system-connections/lan.nmconnection"
            self._write(path, text, 0o600)

    def _install(self) -> None:
        packages = [*_NETWORK_PACKAGES[self.guest.network]]
        if self.guest.initramfs == "dracut":
            packages.append("dracut")
        shutil.copy("/etc/resolv.conf", self.root / "etc/resolv.conf")
        # A configuration that is there before its package stays, and starts nothing here.
        self._write("usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", 0o755)
        apt = ["apt-get", "-qy", "-o", "Dpkg::Options::=--force-confold"]
        environment = ["env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C"]
        self._run(*environment, *apt, "update")
        self._run(*environment, *apt, "install", "--no-install-recommends", *packages)
        self._run("apt-get", "clean")
        (self.root / "usr/sbin/policy-rc.d").unlink()
        self._run("passwd", "-q", "-d", "root")
        if self.guest.network == "netplan":
            self._run("systemctl", "-q", "enable", "systemd-networkd")

    def _make_initramfs(self) -> None:
        if self.guest.initramfs == "dracut":
            conf = 'hostonly="yes"\nadd_drivers+=" megaraid_sas sd_mod "\n'
            self._write("etc/dracut.conf.d/server.conf", conf)
            version = self._kernel()
            self._run("dracut", "-q", "-f", f"/boot/initrd.img-{version}", version)
            return
        if self.guest.initramfs == "dep":
            self._write("etc/initramfs-tools/conf.d/driver-policy", "MODULES=dep\n")
            self._write("etc/initramfs-tools/modules", "megaraid_sas\nsd_mod\n")
        self._run("update-initramfs", "-u", "-k", "all")

    # --- boot loader

    def _make_bootable(self) -> None:
        version = self._kernel()
        folder = "" if "boot" in self.numbers else "/boot"
        if self.guest.root == "btrfs" and folder:
            folder = "/@/boot"
        holder = self.uuids["boot" if "boot" in self.numbers else "root"]
        console = " console=tty0 console=ttyS0,115200" if self.guest.serial else ""
        flags = " rootflags=subvol=@" if self.guest.root == "btrfs" else ""
        self._write(
            "boot/grub/grub.cfg",
            "set timeout=1\nmenuentry 'Debian GNU/Linux' {\n"
            "\tinsmod part_gpt\n\tinsmod part_msdos\n\tinsmod ext2\n\tinsmod xfs\n\tinsmod btrfs\n"
            f"\tsearch --no-floppy --fs-uuid --set=root {holder}\n"
            f"\tlinux {folder}/vmlinuz-{version} root={self._named('root')} ro{flags}{console}\n"
            f"\tinitrd {folder}/initrd.img-{version}\n}}\n",
        )
        if self.guest.uefi:
            self._fill_esp(holder, folder)
        else:
            with self._chroot():
                self._run("grub-install", "--target=i386-pc", self.whole)

    def _fill_esp(self, holder: str, folder: str) -> None:
        stub = self.work / "grub.cfg"
        stub.write_text(
            f"search.fs_uuid {holder} root\nset prefix=($root)'{folder}/grub'\n"
            "configfile $prefix/grub.cfg\n"
        )
        shim = self.root / "usr/lib/shim/shimx64.efi.signed"
        grub = self.root / "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"
        esp = ["-i", f"{self.disk}@@{self.starts['esp'][0]}"]
        tool("mmd", *esp, "::EFI", "::EFI/debian", "::EFI/BOOT")
        tool("mcopy", *esp, shim, "::EFI/debian/shimx64.efi")
        tool("mcopy", *esp, grub, "::EFI/debian/grubx64.efi")
        tool("mcopy", *esp, stub, "::EFI/debian/grub.cfg")
        if self.guest.fallback:
            tool("mcopy", *esp, shim, "::EFI/BOOT/BOOTX64.EFI")
            tool("mcopy", *esp, grub, "::EFI/BOOT/grubx64.efi")

    # --- small things

    def _named(self, what: str) -> str:
        """Return how the guest names one of its volumes."""
        if what == "root" and self.guest.layer:
            return "/dev/mapper/" + {"lvm": "vg0-root", "luks": "cryptroot"}[self.guest.layer]
        if not self.guest.disk:
            return f"UUID={self.uuids[what]}"
        between = "p" if self.guest.disk[-1].isdigit() else ""
        return f"/dev/{self.guest.disk}{between}{self.numbers[what]}"

    def _kernel(self) -> str:
        (version,) = (path.name for path in (self.root / "lib/modules").iterdir())
        return version

    def _loop(self, start: int, size: int) -> AbstractContextManager[str]:
        return _loop(self.disk, start, size)

    def _mount(self, device: str, where: Path, options: str = "defaults") -> None:
        where.mkdir(parents=True, exist_ok=True)
        tool("mount", "-o", options, device, where)
        self.mounts.callback(tool, "umount", where)

    @contextmanager
    def _chroot(self) -> Iterator[None]:
        with ExitStack() as stack:
            for name in ("dev", "proc", "sys"):
                tool("mount", "--bind", f"/{name}", self.root / name)
                stack.callback(tool, "umount", self.root / name)
            yield

    def _run(self, *argv: str) -> None:
        tool("chroot", self.root, *argv)

    def _mkdir(self, path: str) -> None:
        (self.root / path).mkdir(parents=True, exist_ok=True)

    def _write(self, path: str, text: str, mode: int = 0o644) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)


def _luks_create(path: Path, size: int) -> int:
    """Make an encrypted volume of `size` bytes; return the size of the file.

    qemu-img measures the processor first, and gives up where another had it for too long.
    """
    secret = f"secret,id=key,data={PASSPHRASE}"
    options = "key-secret=key,iter-time=10"
    create = ["qemu-img", "create", "-q", "-f", "luks", "--object", secret, "-o", options]
    for _ in range(10):
        done = run([*create, path, str(size)])
        if "accurate CPU usage" not in done.err:
            break
    assert done.code == 0, done.err
    return path.stat().st_size


def _uuid(device: str) -> str:
    return tool("blkid", "-p", "-s", "UUID", "-o", "value", device).strip()


@contextmanager
def _loop(file: Path, start: int, size: int) -> Iterator[str]:
    """Attach a piece of a file as a loop device."""
    place = ["--offset", str(start), "--sizelimit", str(size)]
    device = tool("losetup", "--show", "-f", *place, file).strip()
    try:
        yield device
    finally:
        tool("losetup", "-d", device)


@contextmanager
def _attached(disk: Path) -> Iterator[str]:
    """Attach a disk with its partitions."""
    device = tool("losetup", "--show", "-f", disk).strip()
    try:
        tool("partx", "-a", device, codes=(0, 1))
        yield device
    finally:
        tool("partx", "-d", device, codes=(0, 1))
        tool("losetup", "-d", device)


GUESTS = (
    Guest(
        "bios-dep", "bookworm", Outcome.INITRAMFS_SHELL, initramfs="dep", disk="sda", serial=True
    ),
    Guest("bios-sdb", "bullseye", Outcome.INITRAMFS_SHELL, disk="sdb", left_out=True),
    Guest(
        "uefi-bare", "bookworm", Outcome.NOTHING_BOOTABLE, uefi=True, fallback=False, root="xfs",
        boot=True, network="NetworkManager",
    ),
    Guest("lvm", "bullseye", Outcome.INITRAMFS_SHELL, layer="lvm", initramfs="dep"),
    Guest("luks", "trixie", Outcome.PASSPHRASE, uefi=True, layer="luks", network="netplan"),
    Guest(
        "btrfs", "trixie", Outcome.NOTHING_BOOTABLE, uefi=True, fallback=False, root="btrfs",
        network="netplan",
    ),
    Guest(
        "dracut", "bookworm", Outcome.INITRAMFS_SHELL, initramfs="dracut", root="xfs", boot=True
    ),
)  # fmt: skip
"""Every release, layout, initramfs and network configuration; with the way each of them fails."""
