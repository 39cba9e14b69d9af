#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Makes what most of the live image consists of and what seldom changes, keeps it, and prints the
# folder that it is in:
#   base/   Debian with the packages of the image
#   tools/  what is added to make an image of it: compilers, boot loaders, and in /opt/p2v Python
#           packages that the agent needs. The upper folder of an overlay over base/.
# Usage: base.sh CACHE, from build.sh. A folder's name stands for the lists of packages and for the
# state of Debian's archive; so it is used again only if making it anew would give the same.
set -eu
cache=$1
here=iso
suite=trixie
mirror=${P2V_MIRROR:-http://deb.debian.org/debian}
security=${P2V_SECURITY_MIRROR:-http://deb.debian.org/debian-security}
KEEP_DAYS=7

say() { printf '%s  %s\n' "$(date +%T)" "$*" >&2; }
listed() { sed 's/#.*//' "$1" | xargs; }
needed() {
    sed -n '/^dependencies = \[/,/^\]/s/^ *"\([A-Za-z0-9-]*\).*/\1/p' pyproject.toml
}
inputs() {
    for at in "$mirror/dists/$suite" "$mirror/dists/$suite-updates" "$security/dists/$suite-security"
    do curl -fsSL --retry 3 "$at/InRelease"; done
    cat $here/base.sh $here/packages.txt $here/build-packages.txt $here/excluded.txt requirements.lock
    needed
}

inputs > "$cache/inputs.$$" || { rm -f "$cache/inputs.$$"; echo "$mirror can't be read" >&2; exit 1; }
key=$(sha256sum < "$cache/inputs.$$" | cut -c1-16)
rm "$cache/inputs.$$"
kept=$cache/$key
if [ -d "$kept" ]; then
    touch "$kept"
    echo "$kept"
    exit 0
fi

new=$(mktemp -d "$cache/new.XXXXXX")
base=$new/base
tools=$new/merged
cleanup() {
    for dir in proc dev etc/ssl/certs; do umount -q "$tools/$dir" 2>/dev/null || true; done
    umount -q "$tools" 2>/dev/null || true
    rm -rf "$new"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
failed() { tail -n 40 "$new/log" >&2; exit 1; }

say "Debian $suite (kept in $cache for the next time)"
set --
while read -r path; do
    case $path in /*) set -- "$@" "--dpkgopt=path-exclude=$path" ;; esac
done < $here/excluded.txt
# The initramfs is made later, with the image's own hooks.
# shellcheck disable=SC2016 # mmdebstrap's variable
mmdebstrap --variant=minbase --components=main,non-free-firmware \
    --aptopt='APT::Install-Recommends "false"' --dpkgopt=force-confold --dpkgopt=force-unsafe-io \
    "$@" --include="$(listed $here/packages.txt | tr ' ' ,)" \
    --essential-hook='mkdir -p "$1/etc/initramfs-tools"' \
    --essential-hook='echo update_initramfs=no > "$1/etc/initramfs-tools/update-initramfs.conf"' \
    "$suite" "$base" "deb $mirror $suite main non-free-firmware" \
    "deb $mirror $suite-updates main non-free-firmware" \
    "deb $security $suite-security main non-free-firmware" > "$new/log" 2>&1 || failed
chroot "$base" sh -s < $here/clean.sh

say "what it is made with"
mkdir "$tools" "$new/tools" "$new/scratch"
mount -t overlay overlay -o "lowerdir=$base,upperdir=$new/tools,workdir=$new/scratch" "$tools"
mount -t proc proc "$tools/proc"
mount --bind /dev "$tools/dev"
mount --bind /etc/ssl/certs "$tools/etc/ssl/certs" # of a proxy, too
cp -L --remove-destination /etc/resolv.conf "$tools/etc/resolv.conf"
cp requirements.lock "$tools/"
# shellcheck disable=SC2046 # words
{
    chroot "$tools" apt-get -q update
    chroot "$tools" apt-get -qy --no-install-recommends install $(listed $here/build-packages.txt)
    chroot "$tools" sh -s $(needed) < $here/python-packages.sh
} > "$new/log" 2>&1 || failed
for dir in proc dev etc/ssl/certs; do umount "$tools/$dir"; done
umount "$tools"
rm -rf "$tools" "$new/scratch" "$new/log"
chmod 755 "$new"
mv -T "$new" "$kept" 2> /dev/null || [ -d "$kept/tools" ] # another made it meanwhile
find "$cache" -mindepth 1 -maxdepth 1 -type d -mtime "+$KEEP_DAYS" -exec rm -rf {} +
echo "$kept"
