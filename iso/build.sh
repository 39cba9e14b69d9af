#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Makes the live image: dist/p2v-VERSION-amd64.iso, its checksum and the list of what is in it.
# Usage: build.sh (from `make iso`). Needs root, for chroots. The agent is that of the last commit.
# The same commit and the same state of the Debian archive give the same bytes.
set -eu
cd "$(dirname "$0")/.."
umask 022
export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive PYTHONHASHSEED=0
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct 2>/dev/null || stat -c %Y pyproject.toml)}"
export SOURCE_DATE_EPOCH
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
name=p2v-$version-amd64
dist=dist
cache=${P2V_ISO_CACHE:-$PWD/.cache/iso}
mkdir -p "$dist" "$cache"
kept=$(env -u TMPDIR iso/base.sh "$cache")
base=$(echo "$kept" | head -n 1)
tools=$(echo "$kept" | tail -n 1)
work=$(mktemp -d "${TMPDIR:-/var/tmp}/p2v-iso.XXXXXX")
unset TMPDIR # which is not there within a chroot
root=$work/root     # the system
build=$work/build   # the same with the tools to make it, thrown away at the end
medium=$work/medium # what is on the medium
cleanup() {
    for dir in build/proc build/dev build root/proc root; do
        umount -q "$work/$dir" 2>/dev/null || true
    done
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

say() { printf '%s  %s\n' "$(date +%T)" "$*"; }
failed() { tail -n 40 "$work/log" >&2; exit 1; }
lay_over() { # NAME LOWER...: mount $work/NAME, whose changes go elsewhere
    mkdir -p "$work/$1" "$work/over.$1/upper" "$work/over.$1/work"
    mount -t overlay overlay -o "lowerdir=$2,upperdir=$work/over.$1/upper,workdir=$work/over.$1/work" \
        "$work/$1"
    mount -t proc proc "$work/$1/proc"
}

say "the agent"
lay_over build "$tools:$base"
mount --bind /dev "$build/dev"
mkdir "$build/src"
git archive HEAD agent native p2v setup.py pyproject.toml requirements.lock README.md LICENSE \
    | tar -x -C "$build/src"
chroot "$build" sh -s < iso/install-agent.sh > "$work/log" 2>&1 || failed

say "the system"
lay_over root "$base"
cp -a "$build/opt/p2v" "$root/opt/"
ln -s /opt/p2v/bin/p2v-agent /opt/p2v/bin/p2v "$root/usr/local/bin/"
cp -a iso/root/. "$root/"
chown -R root:root "$root/etc" "$root/usr/lib/p2v" "$root/usr/share/p2v"
chroot "$root" sh -s < iso/initramfs.sh > "$work/log" 2>&1 || failed
mkdir -p "$medium/live" "$medium/boot/grub" "$medium/boot/net" "$medium/.disk" "$medium/EFI/boot" \
    "$medium/EFI/debian"
mv "$root"/boot/vmlinuz-* "$medium/live/vmlinuz"
mv "$root/boot/initrd" "$root/boot/initrd.net" "$medium/live/"
umount "$root/proc"
# All times are the commit's: by itself mksquashfs only makes later ones earlier, and what is kept
# may have been made before it. No byte code looks at them.
env -u SOURCE_DATE_EPOCH mksquashfs "$root" "$medium/live/filesystem.squashfs" -quiet -no-progress \
    -noappend -comp zstd -Xcompression-level "${P2V_ZSTD_LEVEL:-15}" -no-xattrs -wildcards \
    -mkfs-time "$SOURCE_DATE_EPOCH" -all-time "$SOURCE_DATE_EPOCH" \
    -e 'proc/*' 'sys/*' 'dev/*' 'run/*' 'boot/*' 'initrd.img*' 'vmlinuz*' 'tmp/*' 'var/tmp/*'

say "the medium"
dpkg-query --admindir="$root/var/lib/dpkg" -W -f '${Package} ${Version} ${Architecture}\n' \
    | sort > "$dist/$name.packages"
find "$root"/opt/p2v/lib -name '*.dist-info' -printf '%f\n' | sed 's/-\([^-]*\)\.dist-info$/ \1 python/' \
    | sort >> "$dist/$name.packages"
echo "p2v $version $(date -u -d "@$SOURCE_DATE_EPOCH" +%F)" > "$medium/.disk/info"
sed "s/@VERSION@/$version/" iso/boot/grub.cfg > "$medium/boot/grub/grub.cfg"

# BIOS: GRUB with all that it needs built in. UEFI: Debian's shim and GRUB, signed, as they are;
# 32-bit UEFI, which has no Secure Boot worth the name, gets a GRUB made here. In boot/net: for pxe.sh.
modules="iso9660 part_gpt part_msdos fat search search_fs_file normal configfile linux test echo
    minicmd serial terminal terminfo all_video gfxterm font"
cp iso/boot/find.cfg "$build/find.cfg"
# shellcheck disable=SC2086 # words
{
    chroot "$build" grub-mkimage -O i386-pc -p /boot/grub -c /find.cfg -o /core.img biosdisk $modules
    chroot "$build" grub-mkimage -O i386-efi -p /boot/grub -c /find.cfg -o /bootia32.efi $modules
    chroot "$build" grub-mkimage -O i386-pc-pxe -p /grub -o /bios.pxe pxe tftp http $modules
}
cat "$build/usr/lib/grub/i386-pc/cdboot.img" "$build/core.img" > "$medium/boot/grub/bios.img"
cp "$build/usr/lib/shim/shimx64.efi.signed" "$medium/EFI/boot/bootx64.efi"
cp "$build/usr/lib/grub/x86_64-efi-signed/gcdx64.efi.signed" "$medium/EFI/boot/grubx64.efi"
cp "$build/usr/lib/shim/mmx64.efi.signed" "$medium/EFI/boot/mmx64.efi"
cp "$build/bootia32.efi" "$medium/EFI/boot/bootia32.efi"
cp iso/boot/find.cfg "$medium/EFI/debian/grub.cfg"
cp "$build/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed" "$medium/boot/net/grubx64.efi"
cp "$build/bios.pxe" "$medium/boot/net/bios.pxe"
(cd "$medium" && find live boot EFI .disk -type f ! -name bios.img | sort | xargs sha256sum > sha256sum.txt)

say "the image"
find "$medium" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
kib=$(du -sk "$medium/EFI" | cut -f1)
truncate -s "$(((kib + 512) / 32 * 32 + 32))K" "$work/efi.img"
mformat -i "$work/efi.img" -N 50325600 -v P2VEFI ::
mcopy -i "$work/efi.img" -sm "$medium/EFI" ::/
cp "$work/efi.img" "$medium/boot/grub/efi.img"
touch -d "@$SOURCE_DATE_EPOCH" "$medium/boot/grub/efi.img" "$medium/boot/grub"
stamp=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y%m%d%H%M%S00)
xorriso -as mkisofs -quiet -r -J -V P2V -o "$work/$name.iso" \
    --modification-date="$stamp" --set_all_file_dates "$stamp" \
    -b boot/grub/bios.img -no-emul-boot -boot-load-size 4 -boot-info-table --grub2-boot-info \
    --grub2-mbr "$build/usr/lib/grub/i386-pc/boot_hybrid.img" -c boot/boot.cat \
    -partition_offset 16 \
    -eltorito-alt-boot -e boot/grub/efi.img -no-emul-boot -isohybrid-gpt-basdat "$medium" \
    > "$work/log" 2>&1 || failed
mv "$work/$name.iso" "$dist/"
(cd "$dist" && sha256sum "$name.iso" > "$name.iso.sha256")
say "$dist/$name.iso $(stat -c %s "$dist/$name.iso" | numfmt --to=iec-i --suffix=B)"
