# SPDX-License-Identifier: GPL-3.0-or-later
"""Registry values of edits, encoded as hives store them."""

from __future__ import annotations

from collections.abc import Sequence

from p2v.guest.edit import SetValue
from p2v.guest.windows.registry.hive import Kind


def set_number(hive: str, key: str, name: str, number: int) -> SetValue:
    """Return the action that sets a DWORD."""
    data = number.to_bytes(4, "little").hex()
    return SetValue(hive, key, name, Kind.DWORD, data, str(number))


def set_text(hive: str, key: str, name: str, text: str, kind: Kind = Kind.SZ) -> SetValue:
    """Return the action that sets a string; with `kind` EXPAND_SZ one that names variables."""
    return SetValue(hive, key, name, kind, _encoded(text).hex(), f"'{text}'")


def set_texts(hive: str, key: str, name: str, texts: Sequence[str]) -> SetValue:
    """Return the action that sets a list of strings."""
    data = b"".join(map(_encoded, texts)) + "\0".encode("utf-16-le")
    return SetValue(hive, key, name, Kind.MULTI_SZ, data.hex(), f"'{', '.join(texts)}'")


def set_bytes(hive: str, key: str, name: str, data: bytes) -> SetValue:
    """Return the action that sets binary data."""
    return SetValue(hive, key, name, Kind.BINARY, data.hex(), data.hex())


def _encoded(text: str) -> bytes:
    return f"{text}\0".encode("utf-16-le", "surrogatepass")
