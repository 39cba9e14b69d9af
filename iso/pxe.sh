#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Lays out what machines need that start from the network: kernel, initrd and system of the live
# image, signed boot loaders for TFTP, and menus for GRUB and iPXE. Usage: pxe.sh ISO FOLDER [URL]
# URL is where FOLDER will be served by HTTP, http://SERVER/p2v by default for SERVER = the machine
# that gave the boot loader.
set -eu
iso=$1 out=$2 url=${3:-}
rm -rf "$out"
mkdir -p "$out/live" "$out/EFI/debian"
xorriso -osirrox on -indev "$iso" -extract /live "$out/live" -extract /EFI/boot "$out/EFI/boot" \
    -extract /boot/grub/grub.cfg "$out/grub.cfg" 2> "$out/xorriso.log" || { cat "$out/xorriso.log" >&2; exit 1; }
rm "$out/xorriso.log"
chmod -R u+w "$out"
options=$(sed -n 's/^set options="boot=live \(.*\)"$/\1/p' "$out/grub.cfg" | sed 's/noeject //')

# GRUB by TFTP (shim asks for grubx64.efi beside itself), the system by HTTP.
cat > "$out/EFI/debian/grub.cfg" <<'END'
configfile /grub.cfg
END
mkdir -p "$out/grub"
base=${url:-http://\$net_default_server/p2v}
{
    echo "set timeout=10"
    echo 'menuentry "p2v: migrate this machine" {'
    echo "    linux /live/vmlinuz boot=live fetch=$base/live/filesystem.squashfs $options"
    echo "    initrd /live/initrd"
    echo "}"
} > "$out/grub.cfg"
cp "$out/grub.cfg" "$out/grub/grub.cfg"

base=${url:-http://\${next-server}/p2v}
cat > "$out/boot.ipxe" <<END
#!ipxe
kernel $base/live/vmlinuz initrd=initrd boot=live fetch=$base/live/filesystem.squashfs $options \${p2v}
initrd --name initrd $base/live/initrd
boot
END
echo "$out: serve it by HTTP as $base and by TFTP as its root; docs/iso.md says how"
