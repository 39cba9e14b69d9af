#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Takes out of a system what differs from one installation to the next, or is of no use on a live
# medium. Runs inside it.
set -eu
rm -rf /var/log/* /var/cache/* /var/lib/apt/lists/* /tmp/* /root/.cache /boot/System.map* \
    /usr/share/doc /usr/share/man /usr/lib/udev/hwdb.d
rm -f /var/lib/dbus/machine-id /etc/ssh/ssh_host_* /etc/nvme/host* /var/lib/systemd/random-seed \
    /etc/resolv.conf
mkdir -p /var/log/journal /var/cache/apt/archives/partial
: > /etc/machine-id
ln -s ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
# Byte code in the order of names by one process: else it is not the same every time.
find / -xdev -name __pycache__ -prune -exec rm -rf {} +
python3 -m compileall -q -j 1 --invalidation-mode unchecked-hash \
    /usr/lib/python3 /usr/lib/python3.[0-9]* || true
