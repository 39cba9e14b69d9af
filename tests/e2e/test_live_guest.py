# SPDX-License-Identifier: GPL-3.0-or-later
"""An old server migrates itself while it runs: Debian 11, Linux 5.10, root on LVM on a mirror.

The agent is the single file, and it lies on the root that it freezes.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from p2v.model.units import MiB
from tests.e2e.conftest import converting
from tests.e2e.live_guest import Guest, broken_files, guest, inside

REPOSITORY = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.root,
    pytest.mark.qemu,
    pytest.mark.slow,
    pytest.mark.timeout(7200),
]

# What is marked nofail is mounted in its own time.
MOUNTED = """
for i in $(seq 60); do
    mountpoint -q /data && mountpoint -q /home && mountpoint -q /efi && break
    sleep 1
done
"""
# A record is whole if its second word belongs to its first, and follows the one before it.
WRITE = """
for card in /sys/class/net/e*; do
    ip link set dev "${card##*/}" up
    ip address add 10.0.2.15/24 dev "${card##*/}"
done
ip route add default via 10.0.2.2
write() {
    i=0
    while sleep "$2"; do
        i=$((i + 1))
        echo "$i $((i * 7919 % 1000003))" >> "$1/records" || echo "writer-failed $1"
        sync "$1/records" || echo "writer-failed $1"
    done
}
for folder in /root /data /home; do
    write $folder 0 &
done
write /efi 4 &
cp p2v-agent /root/
mkdir -p /etc/p2v/freeze.d
printf '#!/bin/sh\\necho "hook $1" > /dev/ttyS0\\n' > /etc/p2v/freeze.d/10-console
chmod 755 /etc/p2v/freeze.d/10-console
export P2V_TOKEN={token} P2V_FINGERPRINT={fingerprint}
migrate() {
    for folder in /root /data /home /efi; do
        echo "before $1 $folder $(wc -l < $folder/records)"
    done
    name=$1; shift
    /root/p2v-agent migrate --server {address} --name $name --format raw --progress none --json "$@"
    echo "agent $name $?"
}
sleep 6
"""
LVM = """
/root/p2v-agent migrate --server {address} --name killed --disk vdc --capture lvm \
    --bwlimit 100K --codec none --progress none > /dev/null 2>&1 &
for i in $(seq 300); do
    lvs --noheadings -o lv_name vg1 | grep -q p2v_ && { echo snapshots-made; break; }
    sleep 0.2
done
sleep 10  # until its hooks have run too
kill -9 $!
for i in $(seq 60); do
    lvs --noheadings -o lv_name vg1 | grep -q p2v_ || { echo snapshots-gone; break; }
    sleep 1
done
migrate c --disk vdc --capture lvm
lvs --noheadings -o lv_name vg1 | grep p2v_ && echo snapshots-left
"""
LIVE = """
migrate ab --live --disk vda --disk vdb
array=$(ls /sys/block | grep '^md' | head -1)
migrate mirror --live --disk $array
for folder in /root /data /home; do
    old=$(wc -l < $folder/records); sleep 2
    [ $(wc -l < $folder/records) -gt $old ] && echo "still-writes $folder"
done
"""
CHECK = """
grep -q '\\[UU\\]' /proc/mdstat && echo mirror-whole
for folder in /root /data /home /efi; do
    awk -v folder=$folder '
        $1 != NR || $2 != NR * 7919 % 1000003 || NF != 2 { bad++ }
        END { print "after", folder, NR, bad + 0 }' $folder/records
done
umount /data /home /efi
for volume in vg0/data vg1/home; do
    e2fsck -fn /dev/$volume > /dev/null && echo "clean $volume"
done
for group in vg0 vg1; do vgck $group && echo "whole $group"; done
lvs --noheadings -o lv_name | grep p2v_ && echo snapshots-left
:
"""


@dataclass(frozen=True, slots=True)
class Migrated:
    """What the server said while it migrated itself, and its images once they were booted."""

    source: str
    target: str
    mirror: str
    """The records on /data in the image of the mirror."""
    stored: int
    """Bytes that the image of the mirror takes."""
    broken: list[str]
    """Files of packages on the root in it that are not as they were."""

    def before(self, name: str) -> dict[str, int]:
        """Records by folder when a migration began."""
        found = re.findall(rf"^before {name} (\S+) (\d+)", self.source, re.M)
        return {folder: int(count) for folder, count in found}

    @property
    def after(self) -> dict[str, tuple[int, int]]:
        """Records by folder in the images, and how many of them are not whole."""
        found = re.findall(r"^after (\S+) (\d+) (\d+)", self.target, re.M)
        return {folder: (int(count), int(bad)) for folder, count, bad in found}


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Migrated]:
    room = tmp_path_factory.mktemp("guest")
    server = guest(room)
    program = room / "p2v-agent"
    build = [sys.executable, REPOSITORY / "agent/onefile/build.py", program, "--level", "1"]
    subprocess.run(build, check=True)
    with converting(room / "data") as converter:
        script = MOUNTED + WRITE + LVM + LIVE
        for name, value in {
            "token": converter.token(),
            "fingerprint": converter.fingerprint,
            "address": f"https://10.0.2.2:{converter.port}",
        }.items():
            script = script.replace("{" + name + "}", value)
        source = server.run(script, {"p2v-agent": program}, room)
        found = {path.name: path for path in (room / "data").glob("migrations/*/*.raw")}
        images = tuple(found[name] for name in ("ab-vda.raw", "ab-vdb.raw", "c-vdc.raw"))
        copy = Guest(server.kernel, server.initrd, images)
        (mirror,) = (path for name, path in found.items() if name.startswith("mirror-"))
        yield Migrated(
            source,
            copy.run(MOUNTED + CHECK, {}, room),
            inside(mirror, "vg0/data", "/records"),
            mirror.stat().st_blocks * 512,
            broken_files(mirror, "vg0/root"),
        )


def test_both_ways_end_well(migrated):
    assert "agent c 0" in migrated.source
    assert "agent ab 0" in migrated.source


def test_hooks_run_around_every_freeze_and_the_making_of_snapshots(migrated):
    words = re.findall(r"^hook (\w+)", migrated.source, re.M)
    assert words == ["freeze", "thaw"] * (len(words) // 2)
    assert len(words) // 2 >= 4  # of the agent that is killed, c, ab and mirror


def test_no_writer_ever_failed_and_all_go_on(migrated):
    assert "writer-failed" not in migrated.source
    for folder in ("/root", "/data", "/home"):
        assert f"still-writes {folder}" in migrated.source


def test_the_image_boots_from_its_mirror_and_every_record_is_whole(migrated):
    assert "mirror-whole" in migrated.target
    for folder in ("/root", "/data", "/efi"):
        count, bad = migrated.after[folder]
        assert bad == 0
        assert count >= migrated.before("ab")[folder] > 0


def test_a_mirror_that_is_a_disk_of_its_own_is_followed_through_its_members(migrated):
    assert "agent mirror 0" in migrated.source
    lines = migrated.mirror.strip().splitlines()
    assert lines == [f"{n} {n * 7919 % 1000003}" for n in range(1, len(lines) + 1)]
    assert len(lines) >= migrated.before("mirror")["/data"] > migrated.before("ab")["/data"]


def test_of_volumes_that_are_mounted_only_what_their_file_systems_use_is_copied(migrated):
    """1412 of 1431 MiB belong to volumes, most of which is free."""
    document = migrated.source.partition("before mirror /efi")[2].partition("agent mirror")[0]
    assert "every block is copied" not in document
    assert '"notes"' in document
    assert migrated.stored < 1000 * MiB
    assert migrated.broken == []


def test_what_a_snapshot_held_still_is_whole(migrated):
    count, bad = migrated.after["/home"]
    assert bad == 0
    assert count >= migrated.before("c")["/home"] > 0


def test_file_systems_and_groups_are_clean_and_without_a_trace_of_snapshots(migrated):
    for volume in ("vg0/data", "vg1/home"):
        assert f"clean {volume}" in migrated.target
    for group in ("vg0", "vg1"):
        assert f"whole {group}" in migrated.target
    assert "snapshots-left" not in migrated.target + migrated.source


def test_the_snapshots_of_a_killed_agent_are_removed(migrated):
    made = migrated.source.index("snapshots-made")
    assert migrated.source.index("snapshots-gone") > made
