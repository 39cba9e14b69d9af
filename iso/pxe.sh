#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Lays out what machines need that start from the network: kernel, initrd and system of the live
# image, boot loaders, and a menu for GRUB and for iPXE. Usage: pxe.sh ISO FOLDER [URL]
# FOLDER is to be the root of a TFTP server, and served by HTTP as URL; by default that is /p2v on
# the machine that gave the boot loader.
set -eu
iso=$1 out=$2 url=${3:-}
rm -rf "$out"
mkdir -p "$out/live" "$out/grub"
xorriso -osirrox on -indev "$iso" -extract /live "$out/live" -extract /boot/net "$out" \
    -extract /EFI/boot/bootx64.efi "$out/bootx64.efi" \
    -extract /boot/grub/grub.cfg "$out/grub/menu.cfg" 2> "$out/log" || { cat "$out/log" >&2; exit 1; }
chmod -R u+w "$out"
rm "$out/log"
options=$(sed -n 's/^set options="\(boot=live .*\)"$/\1/p' "$out/grub/menu.cfg")
# shellcheck disable=SC2016 # GRUB's and iPXE's variables
{
    printf 'set url="%s"\n' "${url:-http://\$net_default_server/p2v}"
    printf '# Settings for all machines: set p2v="p2v.config=https://... p2v.confirm=yes"\n'
    printf 'source /grub/menu.cfg\n'
} > "$out/grub/grub.cfg"
# shellcheck disable=SC2016 # iPXE's variable
url=${url:-'http://${next-server}/p2v'}
cat > "$out/boot.ipxe" <<END
#!ipxe
kernel $url/live/vmlinuz initrd=initrd initrd=initrd.net $options fetch=$url/live/filesystem.squashfs \${p2v}
initrd --name initrd $url/live/initrd
initrd --name initrd.net $url/live/initrd.net
boot
END
echo "$out: serve it by TFTP, and by HTTP as $url; docs/iso.md says how"
