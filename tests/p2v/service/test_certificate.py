# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import socket
import ssl
import subprocess

import pytest

from p2v.model.errors import UsageError
from p2v.service.certificate import ensure_certificate


def openssl(path, *options):
    command = ["openssl", "x509", "-in", str(path), "-noout", *options]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_openssl_agrees_about_fingerprint_key_names_and_life(tmp_path):
    made = ensure_certificate(tmp_path)
    shown = openssl(made.path, "-fingerprint", "-sha256").strip().split("=")[1]
    assert made.fingerprint == f"sha256:{shown}"
    text = openssl(made.path, "-text")
    assert "ASN1 OID: prime256v1" in text
    assert f"DNS:{socket.gethostname()}" in text and "IP Address:127.0.0.1" in text
    command = ["openssl", "x509", "-in", str(made.path), "-noout", "-checkend"]
    assert subprocess.run([*command, str(3600 * 24 * 3650)], capture_output=True).returncode == 0
    assert subprocess.run([*command, str(3600 * 24 * 3660)], capture_output=True).returncode == 1


def test_old_tls_is_not_spoken(tmp_path):
    assert ensure_certificate(tmp_path).context().minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_damaged_file_is_named_and_kept(tmp_path):
    path = tmp_path / "tls.pem"
    path.write_text("not a certificate")
    with pytest.raises(UsageError, match=r"tls\.pem"):
        ensure_certificate(tmp_path)
    assert path.read_text() == "not a certificate"


def test_it_is_made_once_and_only_its_owner_reads_it(tmp_path):
    first = ensure_certificate(tmp_path)
    assert ensure_certificate(tmp_path) == first
    assert first.path.stat().st_mode & 0o777 == 0o600
