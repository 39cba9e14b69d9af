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

storage='D:\Hyper-V'
name=web01
mark='p2v migration web01-7f3a9c04'
unfinished='p2v migration web01-7f3a9c04 (being made)'

# only KIND NAME: the UUID of the one object of that name.
only() {
    local found
    found=$(xe "$1-list" params=uuid --minimal name-label="$2")
    case $found in ""|*,*) echo "There is no one $1 named $2." >&2; return 1;; esac
    echo "$found"
}

made=$(xe vm-list params=uuid --minimal name-description="$mark")
if [ -n "$made" ]; then
    echo "It was made before: $made." >&2
    exit 0
fi
half=$(xe vm-list params=uuid --minimal name-description="$unfinished")
if [ -n "$half" ]; then xe vm-uninstall uuid="$half" force=true; fi
sr=$(only sr "$storage")
network0=$(only network LAN)
folder=${P2V_IMAGES:-}
if [ -z "$folder" ]; then
    folder=$(mktemp -d --tmpdir=/var/tmp)
    later rm -rf "$folder"
fi
public_key=sha256//q83vq83vq83vq83vq83vq83vq83vq83vq83vq83vq80=

# receive FILE URL SHA256: the image in $folder, fetched if need be.
receive() {
    local path="$folder/$1"
    if [ ! -e "$path" ]; then
        if [ -z "$2" ]; then echo "Bring the image to $path first." >&2; return 1; fi
        later rm -f "$path" "$path.part"
        curl --fail --silent --show-error --retry 5 --continue-at - --insecure \
            --pinnedpubkey "$public_key" --output "$path.part" "$2"
        mv "$path.part" "$path"
    fi
    if [ -n "$3" ]; then echo "$3  $path" | sha256sum --check --quiet >&2; fi
}

receive web01-7f3a9c04-0.raw https://10.0.0.1:8443/api/v1/downloads/secret0 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
receive web01-7f3a9c04-1.raw https://10.0.0.1:8443/api/v1/downloads/secret1 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08

vm=$(xe vm-install new-name-label="$name" template='Other install media')
later xe vm-uninstall uuid="$vm" force=true
xe vm-param-set uuid="$vm" name-description="$unfinished"
xe vm-memory-limits-set uuid="$vm" static-min=8589934592 dynamic-min=8589934592 \
    dynamic-max=8589934592 static-max=8589934592
xe vm-param-set uuid="$vm" VCPUs-max=4
xe vm-param-set uuid="$vm" VCPUs-at-startup=4
vdi=$(xe vdi-create sr-uuid="$sr" name-label=web01-7f3a9c04-0.raw type=user \
    virtual-size=1073741824)
later xe vdi-destroy uuid="$vdi"
xe vdi-import uuid="$vdi" filename="$folder"/web01-7f3a9c04-0.raw format=raw
xe vbd-create vm-uuid="$vm" vdi-uuid="$vdi" device=0 mode=RW type=Disk \
    bootable=true
vdi=$(xe vdi-create sr-uuid="$sr" name-label=web01-7f3a9c04-1.raw type=user \
    virtual-size=2147483648)
later xe vdi-destroy uuid="$vdi"
xe vdi-import uuid="$vdi" filename="$folder"/web01-7f3a9c04-1.raw format=raw
xe vbd-create vm-uuid="$vm" vdi-uuid="$vdi" device=1 mode=RW type=Disk \
    bootable=false
xe vif-create vm-uuid="$vm" network-uuid="$network0" mac=52:54:00:00:00:00 \
    device=0
xe vm-param-set uuid="$vm" name-description="$mark"
if [ -z "${P2V_IMAGES:-}" ]; then rm -rf "$folder"; fi
