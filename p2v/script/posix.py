# SPDX-License-Identifier: GPL-3.0-or-later
"""What the shell scripts share: stop on the first error, undo, fetch and check images."""

from __future__ import annotations

from collections.abc import Iterator

from p2v.model.order import Order
from p2v.script.quote import shell as quote

_PRELUDE = """\
#!/bin/bash
# Makes the virtual machine of a p2v migration. What a failure leaves half made is taken away.
set -euo pipefail
export LC_ALL=C

undo=()
on_exit() {
    status=$?
    trap - EXIT
    set +e
    if [ "$status" -ne 0 ]; then
        for ((i = ${#undo[@]} - 1; i >= 0; i--)); do
            if eval "${undo[i]}" >&2; then echo "undone: ${undo[i]}" >&2
            else echo "NOT undone: ${undo[i]}" >&2; fi
        done
    fi
    exit "$status"
}
trap on_exit EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
# To be undone, in the reverse order, if something fails later.
later() { undo+=("$(printf '%q ' "$@")"); }
"""

_RECEIVE = """\
# receive FILE URL SHA256: the image in $folder, fetched if need be.
receive() {
    local path="$folder/$1"
    if [ ! -e "$path" ]; then
        if [ -z "$2" ]; then echo "Bring the image to $path first." >&2; return 1; fi
        later rm -f "$path" "$path.part"
        curl --fail --silent --show-error --retry 5 --continue-at - --insecure \\
            --pinnedpubkey "$public_key" --output "$path.part" "$2"
        mv "$path.part" "$path"
    fi
    if [ -n "$3" ]; then echo "$3  $path" | sha256sum --check --quiet >&2; fi
}
"""


def head(order: Order) -> Iterator[str]:
    """Yield the lines that begin a script."""
    yield from _PRELUDE.splitlines()
    yield ""
    yield f"storage={quote(order.storage)}"


def marks(order: Order) -> Iterator[str]:
    """Yield the machine's name and marks as variables, for tools that find it by them."""
    yield f"name={quote(order.vm.name)}"
    yield f"mark={quote(order.mark)}"
    yield f"unfinished={quote(order.unfinished_mark)}"


def receive(order: Order) -> Iterator[str]:
    """Yield the lines that bring the images to `$folder`, which is `$P2V_IMAGES` if that is set."""
    yield "folder=${P2V_IMAGES:-}"
    yield 'if [ -z "$folder" ]; then'
    yield "    folder=$(mktemp -d --tmpdir=/var/tmp)"
    yield '    later rm -rf "$folder"'
    yield "fi"
    yield f"public_key={quote(f'sha256//{order.public_key}')}"
    yield ""
    yield from _RECEIVE.splitlines()
    yield ""
    for disk in order.disks:
        yield f"receive {quote(disk.file)} {quote(disk.url)} {quote(disk.sha256)}"


def tail() -> Iterator[str]:
    """Yield the lines that end a script: fetched images are in the host's storage by now."""
    yield 'if [ -z "${P2V_IMAGES:-}" ]; then rm -rf "$folder"; fi'
