# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks go to the ESXi that a lease names, as the real one takes them.

The lease is data; the host is a server that is as strict as ESXi: a body of known length, posted as
a stream-optimised VMDK, to the URL of its disk.
"""

from __future__ import annotations

import hashlib
import ssl
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import requests

from p2v.hosts.vmware_spec import places
from p2v.hosts.vmware_upload import upload
from p2v.model.errors import HostError, HostUnreachableError
from p2v.model.order import OrderedDisk
from p2v.model.vm import OsFamily
from p2v.service.certificate import ensure_certificate

VCENTER = "vc.example:443"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        length = self.headers["Content-Length"]
        good = self.headers["Content-Type"] == "application/x-vnd.vmware-streamVmdk"
        if length and good:
            self.server.taken[self.path] = self.rfile.read(int(length))
        self.send_response(200 if length and good else 411)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def esxi(certificate):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.taken = {}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def world(tmp_path):
    """An ESXi, and the SHA-1 of its certificate as vCenter tells it."""
    certificate = ensure_certificate(tmp_path)
    with esxi(certificate.path) as server:
        pem = ssl.get_server_certificate(("127.0.0.1", server.server_address[1]))
        digest = hashlib.sha1(ssl.PEM_cert_to_DER_cert(pem))
        yield server, digest.digest().hex(":").upper()


class Lease:
    """What vCenter says of an import: its disks, in whatever order."""

    def __init__(self, devices):
        self.info = SimpleNamespace(deviceUrl=devices)
        self.progress = []

    def HttpNfcLeaseProgress(self, percent):  # noqa: N802
        self.progress.append(percent)


def device(server, thumbprint, place, disk=True):
    url = f"https://127.0.0.1:{server.server_address[1]}/nfc/52/disk-{place}.vmdk"
    key = f"/web 01 (old)/ParaVirtualSCSIController{place}"
    return SimpleNamespace(url=url, sslThumbprint=thumbprint, importKey=key, disk=disk)


def send(lease, order, images, sent=lambda _: None):
    upload(lease, order, images, places(order), (VCENTER, requests.Session()), sent)


def test_each_disk_goes_to_the_url_of_its_place_whatever_their_order(world, order, images):
    server, thumbprint = world
    nvram = device(server, thumbprint, "9:9", disk=False)
    told = []
    lease = Lease([device(server, thumbprint, "0:1"), nvram, device(server, thumbprint, "0:0")])
    send(lease, order, images, told.append)
    assert server.taken == {
        f"/nfc/52/disk-0:{number}.vmdk": image.read_bytes() for number, image in enumerate(images)
    }
    assert sum(told) == sum(image.stat().st_size for image in images)


def test_the_lease_is_kept_while_that_takes_its_time(world, order, images, monkeypatch):
    monkeypatch.setattr("p2v.hosts.vmware_upload._BEAT_S", 0.0)
    server, thumbprint = world
    lease = Lease([device(server, thumbprint, f"0:{n}") for n in range(2)])
    send(lease, order, images)
    assert lease.progress == sorted(lease.progress) and lease.progress[-1] == 100


def test_a_host_with_another_certificate_than_vcenter_says_gets_nothing(world, order, images):
    server, _ = world
    lease = Lease([device(server, "00" * 20, f"0:{n}") for n in range(2)])
    with pytest.raises(HostUnreachableError, match="shows the certificate"):
        send(lease, order, images)
    assert server.taken == {}


def test_a_disk_without_a_url_is_said(world, order, images):
    lease = Lease([device(*world, "0:0")])
    with pytest.raises(HostError, match="no place for web01-7f3a9c04-1"):
        send(lease, order, images)


def test_the_controllers_own_place_on_a_scsi_bus_stays_free(order):
    disks = tuple(OrderedDisk(f"d{n}", 1) for n in range(32))
    linux = places(replace(order, disks=disks, vm=replace(order.vm, os=OsFamily.LINUX)))
    assert linux[6:8] == [(0, 6), (0, 8)] and linux[15:17] == [(1, 0), (1, 1)]
    windows = places(replace(order, disks=disks, vm=replace(order.vm, os=OsFamily.WINDOWS)))
    assert windows[6:8] == [(0, 6), (0, 7)] and windows[29:] == [(0, 29), (1, 0), (1, 1)]
