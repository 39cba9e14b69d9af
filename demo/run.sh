#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# The main job, for real: the disk of a Debian server goes through agent and converter, over TLS,
# and becomes a VHDX. Usage: run.sh (from `make demo`). Needs root for the loop device.
set -eu
cd "$(dirname "$0")/.."
PATH=$PWD/.venv/bin:$PATH
cache=${P2V_CACHE:-$PWD/.cache}
port=${P2V_DEMO_PORT:-18443}
work=$(mktemp -d "${TMPDIR:-/tmp}/p2v-demo.XXXXXX")
out=$cache/demo
loop=
server=
cleanup() {
    [ -n "$server" ] && { kill "$server" 2>/dev/null; wait "$server" 2>/dev/null; } || true
    [ -n "$loop" ] && losetup -d "$loop" || true
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
export XDG_CONFIG_HOME=$work/config

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

say "1. A server's disk: Debian 12, GPT, ext4 and swap, attached as a loop device"
demo/debian-disk.sh "$cache/web01.img"
loop=$(losetup --show -f -r "$cache/web01.img")
echo "   $loop"

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

say "3. The agent: p2v-agent migrate --server https://127.0.0.1:$port --disk $loop"
p2v pair --data "$out" --json | sed -n 's/^ *"code": "\(.*\)",$/\1/p' > "$work/code"
p2v-agent migrate --server "https://127.0.0.1:$port" --code-file "$work/code" \
    --name web01 --disk "$loop" | tee "$work/result"
image=$(sed -n 's/^ *image *//p' "$work/result")

say "4. p2v image check"
p2v image check "$image"

say "5. The image against the source: p2v-agent leaves out what the file system calls free, so every"
echo "   block in use is compared, by the source's own files:"
demo/same-files.sh "$loop" "$image"

say "Done"
cat <<END
   made       $image
   from       $(blockdev --getsize64 "$loop" | numfmt --to=iec-i --suffix=B) of disk
$(sed -n 's/^migration .* after /   in         /p; s/^ *wire */   sent       /p; s/^ *skipped */   skipped    /p' "$work/result")

   To try next:
     qemu-system-x86_64 -accel tcg -m 1024 -snapshot -nographic -drive file=$image,if=virtio
     .venv/bin/p2v image info $image
     .venv/bin/p2v-agent inventory
     .venv/bin/p2v-agent migrate --to /some/folder --disk sda --dry-run
END
