#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# The main job, for real: the disk of a Debian server, mounted and written to, goes through agent
# and converter, over TLS, and becomes a VHDX. Usage: run.sh (from `make demo`). Needs root for the loop device.
set -eu
cd "$(dirname "$0")/.."
PATH=$PWD/.venv/bin:$PATH
cache=${P2V_CACHE:-$PWD/.cache}
port=${P2V_DEMO_PORT:-18443}
work=$(mktemp -d "${TMPDIR:-/tmp}/p2v-demo.XXXXXX")
out=$cache/demo
loop=
server=
service=
cleanup() {
    [ -n "$service" ] && { kill "$service" 2>/dev/null; wait "$service" 2>/dev/null; } || true
    umount -q "$work/root" 2>/dev/null || true
    [ -n "$server" ] && { kill "$server" 2>/dev/null; wait "$server" 2>/dev/null; } || true
    [ -n "$loop" ] && { partx -d "$loop" 2>/dev/null; losetup -d "$loop"; } || true
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
export XDG_CONFIG_HOME=$work/config

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

say "1. A server's disk: Debian 12, GPT, ext4 and swap; mounted, and a service writes to it"
demo/debian-disk.sh "$cache/web01.img"
cp --reflink=auto --sparse=always "$cache/web01.img" "$work/web01.img"
loop=$(losetup --show -f "$work/web01.img")
partx -a "$loop" 2>/dev/null || true
mkdir "$work/root"
mount "${loop}p3" "$work/root"
mkdir "$work/root/srv/journal"
demo/journal.py write "$work/root/srv/journal/journal" &
service=$!
echo "   $loop, an fsynced line every few milliseconds to /srv/journal"

say "2. A converter: p2v serve"
rm -rf "$out"
mkdir -p "$out"
p2v serve --data "$out" --listen "127.0.0.1:$port" > "$work/serve.log" 2>&1 &
server=$!
for _ in $(seq 100); do
    [ -S "$out/admin.sock" ] && p2v migrations --data "$out" > /dev/null 2>&1 && break
    kill -0 "$server" 2>/dev/null || { cat "$work/serve.log"; exit 1; }
    sleep 0.2
done
cat "$work/serve.log"

say "3. The agent: p2v-agent migrate --live --no-convert --server https://127.0.0.1:$port --disk $loop"
p2v pair --data "$out" --json | sed -n 's/^ *"code": "\(.*\)",$/\1/p' > "$work/code"
p2v-agent migrate --server "https://127.0.0.1:$port" --code-file "$work/code" \
    --live --no-convert --name web01 --disk "$loop" | tee "$work/result"
image=$(sed -n 's/^ *image *//p' "$work/result")

say "4. p2v image check"
p2v image check "$image"

say "5. The image is the disk at the instant of the freeze: every file of the source, and of the"
echo "   journal what was written until then"
kill -0 "$service" || { echo "the service has failed"; exit 1; }
kill "$service"
wait "$service" 2>/dev/null || true
service=
cp "$work/root/srv/journal/journal" "$work/journal"
umount "$work/root"
demo/same-files.sh "$loop" "$image" srv/journal "$work/copy"
demo/journal.py check "$work/copy/journal" "$work/journal"

say "6. The guest is made to boot on Hyper-V (what the migration does by itself without --no-convert,"
echo "   left out above to compare the image first): p2v convert; minutes where there is no KVM"
p2v convert "$image" --target hyperv --progress none

say "7. Does it start? A throw-away copy, with no network: p2v rehearse"
p2v rehearse "$image" --memory 1G --progress none

say "Done"
cat <<END
   made       $image
   report     $image.conversion.html
   from       $(blockdev --getsize64 "$loop" | numfmt --to=iec-i --suffix=B) of disk
$(sed -n 's/^migration .* after /   in         /p; s/^ *wire */   sent       /p; s/^ *skipped */   skipped    /p; s/^ *live */   live       /p' "$work/result")

   To try next:
     qemu-system-x86_64 -accel tcg -m 1024 -snapshot -nographic -drive file=$image,if=virtio
     .venv/bin/p2v image info $image
     .venv/bin/p2v-agent inventory
     .venv/bin/p2v-agent migrate --to /some/folder --disk sda --dry-run
END
