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
vm=web01
home=web01-7f3a9c04
host=''

# card NUMBER: what govc calls the adapter of that number, the first being 1.
card() {
    govc device.ls -vm "$vm" | awk '/^ethernet-/ { print $1 }' | sed -n "$1p"
}

found=$(govc vm.info -json -- "$vm" || true)
if grep -qF "\"$mark\"" <<<"$found"; then
    echo "It was made before." >&2
    exit 0
fi
if grep -qF "\"$unfinished\"" <<<"$found"; then govc vm.destroy -- "$vm"; fi
govc datastore.rm -f -ds "$storage" "$home"
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

receive web01-7f3a9c04-0.vmdk https://10.0.0.1:8443/api/v1/downloads/secret0 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08

later govc datastore.rm -f -ds "$storage" "$home"
govc import.vmdk -ds "$storage" "$folder"/web01-7f3a9c04-0.vmdk "$home"
govc vm.create -on=false -ds "$storage" ${host:+-host "$host"} \
    -c 4 -m 8192 -g otherLinux64Guest -firmware efi \
    -disk.controller pvscsi -net LAN -net.adapter vmxnet3 -net.address 52:54:00:00:00:00 \
    -annotation "$unfinished" -- "$name"
later govc vm.destroy -- "$vm"
govc vm.disk.attach -vm "$vm" -ds "$storage" -link=false -disk "$home"/web01-7f3a9c04-0.vmdk
govc device.boot -vm "$vm" -firmware efi -secure
govc vm.change -vm "$vm" -annotation "$mark"
if [ -z "${P2V_IMAGES:-}" ]; then rm -rf "$folder"; fi
