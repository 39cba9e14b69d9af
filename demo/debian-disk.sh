#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Makes a real source: the disk of a Debian 12 server (GPT, BIOS boot, ext4 root, swap) that boots
# to a login on its serial console. Usage: debian-disk.sh DISK [SIZE]. Needs root; does nothing if
# DISK is there already. root has no password: it is a throw-away server.
set -eu
export LC_ALL=C DEBIAN_FRONTEND=noninteractive
disk=$1
size=${2:-6G}
[ -e "$disk" ] && exit 0
mkdir -p "$(dirname "$disk")"
work=$(mktemp -d)
loop=
cleanup() {
    for dir in dev proc sys; do umount -q "$work/root/$dir" 2>/dev/null || true; done
    umount -q "$work/root" 2>/dev/null || true
    [ -n "${uuid:-}" ] && rm -f "/dev/disk/by-uuid/$uuid"
    [ -n "$loop" ] && { partx -d "$loop" 2>/dev/null; losetup -d "$loop"; } || true
    rm -rf "$work" "$disk.new"
}
trap cleanup EXIT INT TERM

tree=$(dirname "$disk")/debian-12.tar
if [ ! -e "$tree" ]; then
    echo "building a Debian 12 (once; about two minutes) ..."
    mmdebstrap --quiet --format=tar --variant=minbase --include=linux-image-amd64,grub-pc,systemd-sysv,udev,dbus,ifupdown,iproute2,isc-dhcp-client,openssh-server,e2fsprogs,kmod,nano,less,cron,rsyslog \
        --aptopt='APT::Install-Recommends "false"' bookworm "$tree.new"
    mv "$tree.new" "$tree"
fi

truncate -s "$size" "$disk.new"
sfdisk -q "$disk.new" <<'PARTITIONS'
label: gpt
size=1MiB, type=21686148-6449-6E6F-744E-656564454649, name="bios"
size=512MiB, type=swap, name="swap"
type=linux, name="root"
PARTITIONS
loop=$(losetup --show -fP "$disk.new")
# The kernel's own scan is now and then lost while somebody else looks at the device.
[ -b "${loop}p3" ] || partx -a "$loop"
mkswap -q -L swap "${loop}p2"
mkfs.ext4 -q -L root "${loop}p3"
uuid=$(blkid -s UUID -o value "${loop}p3")
swap=$(blkid -s UUID -o value "${loop}p2")
mkdir "$work/root"
mount "${loop}p3" "$work/root"
tar -C "$work/root" -xpf "$tree" --numeric-owner --xattrs --xattrs-include='*'

cat > "$work/root/etc/fstab" <<FSTAB
UUID=$uuid / ext4 errors=remount-ro 0 1
UUID=$swap none swap sw 0 0
FSTAB
echo web01 > "$work/root/etc/hostname"
printf '127.0.0.1 localhost web01\n' > "$work/root/etc/hosts"
printf 'auto lo\niface lo inet loopback\nallow-hotplug eth0\niface eth0 inet dhcp\n' \
    > "$work/root/etc/network/interfaces"
cat > "$work/root/etc/default/grub" <<'GRUB'
GRUB_DEFAULT=0
GRUB_TIMEOUT=1
GRUB_CMDLINE_LINUX="console=tty0 console=ttyS0,115200"
GRUB_TERMINAL="console serial"
GRUB_SERIAL_COMMAND="serial --speed=115200"
GRUB_DISABLE_OS_PROBER=true
GRUB
chroot "$work/root" passwd -q -d root
for dir in dev proc sys; do mount --bind "/$dir" "$work/root/$dir"; done
# There is no udev here to make this link, and without it GRUB would write the loop device's name.
mkdir -p /dev/disk/by-uuid
ln -sf "${loop}p3" "/dev/disk/by-uuid/$uuid"
chroot "$work/root" grub-install --target=i386-pc "$loop" 2>/dev/null
chroot "$work/root" update-grub 2>/dev/null
grep -q "root=UUID=$uuid" "$work/root/boot/grub/grub.cfg"
# Something to keep: files of every size, and free space that was in use once.
mkdir -p "$work/root/srv/data"
find "$work/root/usr/share" "$work/root/usr/lib" -type f | head -n 3000 | tar -cf "$work/root/srv/data/files.tar" -T - 2>/dev/null
head -c 64M /dev/urandom > "$work/root/srv/data/random"
head -c 200M /dev/urandom > "$work/root/srv/data/deleted"
sync
rm "$work/root/srv/data/deleted"
for dir in dev proc sys; do umount "$work/root/$dir"; done
umount "$work/root"
partx -d "$loop"
losetup -d "$loop"
loop=
mv "$disk.new" "$disk"
