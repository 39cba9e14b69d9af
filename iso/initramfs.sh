#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Makes the initramfs in /boot, in two parts: initrd finds the system on a medium, and initrd.net is
# what a machine that starts from the network needs in addition. Runs inside the system.
set -eu
version=$(ls /lib/modules)
work=$(mktemp -d)
TMPDIR=$work mkinitramfs -k -o "$work/unused" "$version" > "$work/log" 2>&1 || { cat "$work/log"; exit 1; }
tree=$(find "$work" -maxdepth 1 -type d -name 'mkinitramfs_*')
net=$work/net
modules=usr/lib/modules/$version/kernel

cd "$tree"
# The machine's own file systems and arrays are not even tried: no driver for them is there.
for kind in btrfs ext4 f2fs hfs hfsplus jbd2 jffs2 jfs ntfs ntfs3 reiserfs xfs; do
    rm -rf "$modules/fs/$kind"
done
rm -rf "$modules/drivers/md" usr/lib/udev/hwdb.bin usr/sbin/lvm usr/sbin/mdadm usr/bin/btrfs \
    usr/bin/ntfs-3g
sed -i '/^\(linear\|multipath\|raid[0-9]*\)$/d' conf/modules
for part in usr/lib/firmware "$modules/drivers/net" "$modules/drivers/infiniband" "$modules/fs/nfs" \
    "$modules/fs/lockd"; do
    [ -d "$part" ] || continue
    mkdir -p "$net/$(dirname "$part")"
    mv "$part" "$net/$part"
done

pack() {
    (cd "$1" && find . -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} + && find . -print0 | sort -z |
        cpio --quiet -0 --reproducible -R 0:0 -o -H newc) | zstd -q -19 -T0 > "$2"
}
pack "$tree" /boot/initrd
pack "$net" /boot/initrd.net
rm -rf "$work"
