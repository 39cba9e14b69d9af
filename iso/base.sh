#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Makes what most of the live image consists of and what seldom changes, keeps it, and prints where:
#   KEY/base         Debian with the packages of the image
#   KEY/tools.KEY    what is added to make an image of it: compilers, boot loaders, and in /opt/p2v
#                    the Python packages that the agent needs. The upper folder of an overlay.
# Usage: base.sh CACHE, from build.sh. The keys stand for the lists of packages and for the state of
# Debian's archive; so a folder is used again only if making it anew would give the same.
set -eu
cache=$1
suite=trixie
mirror=${P2V_MIRROR:-http://deb.debian.org/debian}
security=${P2V_SECURITY_MIRROR:-http://deb.debian.org/debian-security}
KEEP_DAYS=7

new=$(mktemp -d "$cache/new.XXXXXX")
merged=$new/merged
cleanup() {
    for dir in proc dev etc/ssl/certs; do umount -q "$merged/$dir" 2>/dev/null || true; done
    umount -q "$merged" 2>/dev/null || true
    rm -rf "$new"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

say() { printf '%s  %s\n' "$(date +%T)" "$*" >&2; }
failed() { tail -n 40 "$new/log" >&2; exit 1; }
listed() { sed 's/#.*//' "$1" | xargs; }
needed() { sed -n '/^dependencies = \[/,/^\]/s/^ *"\([A-Za-z0-9-]*\).*/\1/p' pyproject.toml; }
key() { sha256sum | cut -c1-16; }
keep() { mv -T "$1" "$2" 2> /dev/null || [ -d "$2" ]; } # another may have made it meanwhile

for at in "$mirror/dists/$suite" "$mirror/dists/$suite-updates" "$security/dists/$suite-security"; do
    curl -fsSL --retry 3 "$at/InRelease" >> "$new/archive"
done
# What writes dates writes the archive's, whatever commit this is made for.
SOURCE_DATE_EPOCH=$(sed -n 's/^Date: //p' "$new/archive" | xargs -I{} date -d {} +%s | sort -n | tail -n 1)
export SOURCE_DATE_EPOCH
folder=$cache/$(cat "$new/archive" iso/base.sh iso/clean.sh iso/packages.txt iso/excluded.txt | key)
base=$folder/base
tools=$folder/tools.$({ cat iso/build-packages.txt iso/python-packages.sh requirements.lock; needed; } | key)
mkdir -p "$folder"
touch "$folder"

if ! [ -d "$base" ]; then
    say "Debian $suite (kept in $folder)"
    set --
    while read -r path; do
        case $path in /*) set -- "$@" "--dpkgopt=path-exclude=$path" ;; esac
    done < iso/excluded.txt
    # The initramfs is made later, with the image's own hooks.
    # shellcheck disable=SC2016 # mmdebstrap's variable
    mmdebstrap --variant=minbase --components=main,non-free-firmware \
        --aptopt='APT::Install-Recommends "false"' --dpkgopt=force-confold \
        --dpkgopt=force-unsafe-io "$@" --include="$(listed iso/packages.txt | tr ' ' ,)" \
        --essential-hook='mkdir -p "$1/etc/initramfs-tools"' \
        --essential-hook='echo update_initramfs=no > "$1/etc/initramfs-tools/update-initramfs.conf"' \
        "$suite" "$new/base" "deb $mirror $suite main non-free-firmware" \
        "deb $mirror $suite-updates main non-free-firmware" \
        "deb $security $suite-security main non-free-firmware" > "$new/log" 2>&1 || failed
    chroot "$new/base" sh -s < iso/clean.sh
    keep "$new/base" "$base"
fi

if ! [ -d "$tools" ]; then
    say "what it is made with (kept there, too)"
    mkdir "$merged" "$new/tools" "$new/scratch"
    mount -t overlay overlay -o "lowerdir=$base,upperdir=$new/tools,workdir=$new/scratch" "$merged"
    mount -t proc proc "$merged/proc"
    mount --bind /dev "$merged/dev"
    mount --bind /etc/ssl/certs "$merged/etc/ssl/certs" # of a proxy, too
    cp -L --remove-destination /etc/resolv.conf "$merged/etc/resolv.conf"
    cp requirements.lock "$merged/"
    # shellcheck disable=SC2046 # words
    {
        chroot "$merged" apt-get -q update
        chroot "$merged" apt-get -qy --no-install-recommends install $(listed iso/build-packages.txt)
        chroot "$merged" sh -s $(needed) < iso/python-packages.sh
    } > "$new/log" 2>&1 || failed
    for dir in proc dev etc/ssl/certs; do umount "$merged/$dir"; done
    umount "$merged"
    keep "$new/tools" "$tools"
fi
find "$cache" -mindepth 1 -maxdepth 1 -type d -mtime "+$KEEP_DAYS" -exec rm -rf {} +
printf '%s\n' "$base" "$tools"
