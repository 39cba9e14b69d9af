#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Lays out what machines need that start from the network: kernel, initrd and system of the live
# image, and a menu for iPXE. Usage: pxe.sh ISO FOLDER [URL]
# URL is where FOLDER will be served by HTTP; /p2v on the machine that gave iPXE by default.
set -eu
iso=$1 out=$2
# shellcheck disable=SC2016 # iPXE's variable
server='${next-server}'
url=${3:-http://$server/p2v}
rm -rf "$out"
mkdir -p "$out/live"
xorriso -osirrox on -indev "$iso" -extract /live "$out/live" \
    -extract /boot/grub/grub.cfg "$out/grub.cfg" 2> "$out/log" || { cat "$out/log" >&2; exit 1; }
chmod -R u+w "$out"
options=$(sed -n 's/^set options="boot=live \(.*\)"$/\1/p' "$out/grub.cfg" | sed 's/noeject //')
rm "$out/log" "$out/grub.cfg"
cat > "$out/boot.ipxe" <<END
#!ipxe
kernel $url/live/vmlinuz initrd=initrd boot=live fetch=$url/live/filesystem.squashfs $options \${p2v}
initrd --name initrd $url/live/initrd
boot
END
echo "$out: serve it by HTTP as $url; docs/iso.md says how"
