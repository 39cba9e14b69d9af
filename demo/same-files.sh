#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Compares a disk with an image of it, file system by file system: every file, its contents, owner
# and mode; and fsck. Usage: same-files.sh DISK IMAGE [FOLDER COPY]: what FOLDER holds may differ,
# and is copied from the image to COPY. Needs root; writes nothing to either.
set -eu
export LC_ALL=C
disk=$1 image=$2 apart=${3:-none} copy=${4:-}
work=$(mktemp -d "${TMPDIR:-/tmp}/p2v-compare.XXXXXX")
one= two=
cleanup() {
    for dir in a b; do umount -q "$work/$dir" 2>/dev/null || true; done
    for loop in $one $two; do { partx -d "$loop"; losetup -d "$loop"; } 2>/dev/null || true; done
    rm -rf "$work"
}
trap cleanup EXIT
mkdir "$work/a" "$work/b"
qemu-img convert -O raw "$image" "$work/raw"
one=$(losetup --show -f -r "$disk")
two=$(losetup --show -f -r "$work/raw")
for loop in $one $two; do partx -a "$loop" 2>/dev/null || true; done

for part in "$one"p*; do
    number=${part#"$one"p}
    other=${two}p$number
    kind=$(blkid -p -s TYPE -o value "$part" || true)
    name=$(blkid -p -s UUID -o value "$part" || true)
    [ "$name" = "$(blkid -p -s UUID -o value "$other" || true)" ] || { echo "UUID of partition $number differs"; exit 1; }
    case $kind in
    ext4)
        mount -o ro,noload "$part" "$work/a"
        mount -o ro,noload "$other" "$work/b"
        for dir in a b; do
            (cd "$work/$dir" &&
             find . -xdev -path "./$apart" -prune -o -printf '%p %y %m %U %G %s %T@ %l\n' | sort > "$work/$dir.list"
             find . -xdev -path "./$apart" -prune -o -type f -print0 | sort -z | xargs -0 sha256sum > "$work/$dir.sums")
        done
        cmp "$work/a.list" "$work/b.list"
        cmp "$work/a.sums" "$work/b.sums"
        [ -e "$work/b/$apart" ] && cp -r "$work/b/$apart" "$copy"
        umount "$work/a" "$work/b"
        e2fsck -fn "$other" > /dev/null 2>&1 || { echo "fsck of partition $number fails"; exit 1; }
        echo "   partition $number  $kind  $(wc -l < "$work/a.sums") files identical, fsck clean"
        ;;
    swap) echo "   partition $number  swap  same UUID, contents left out" ;;
    *) cmp "$part" "$other" && echo "   partition $number  ${kind:-no file system}  identical" ;;
    esac
done
