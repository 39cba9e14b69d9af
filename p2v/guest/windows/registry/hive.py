# SPDX-License-Identifier: GPL-3.0-or-later
"""A reader of hives: keys and values within bounds, whatever the file says.

It shares no code with hivex, which writes hives, so that each shows the other's mistakes. Names are
found whatever their case, as Windows does. Cells, lists and records are named as in the
specification, "Format of primary files".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from p2v.guest.windows.registry.base import PAGE, BaseBlock, HiveDamagedError
from p2v.guest.windows.registry.recover import check_bins
from p2v.model.units import GiB

MAX_DEPTH = 512
"""Windows allows no deeper key."""
MAX_LISTED = 200_000
"""Keys, or values, in a key; real ones have some thousands."""
MAX_READS = 20_000_000
"""Cells that one hive is read for: some minutes. A real one has a hundred thousand."""
MAX_DATA = 4 * GiB
"""Bytes of values that one hive is read for; a hostile one may use the same bytes for many."""
_NOTHING = 0xFFFFFFFF
_INLINE = 0x80000000
_SEGMENT = 16344


class Kind(IntEnum):
    """Types of values ("Data types"); others occur, as plain numbers."""

    SZ = 1
    EXPAND_SZ = 2
    BINARY = 3
    DWORD = 4
    MULTI_SZ = 7
    QWORD = 11


@dataclass(frozen=True, slots=True)
class Value:
    """A value: its name ("" for a key's default one), type and bytes."""

    name: str
    kind: int
    data: bytes

    @property
    def number(self) -> int | None:
        """The number of a DWORD or QWORD, None for other types."""
        if self.kind in (Kind.DWORD, Kind.QWORD):
            return int.from_bytes(self.data[:8], "little")
        return None

    @property
    def text(self) -> str:
        """The text of a string up to its end, of a list its first."""
        return next(iter(self.texts), "")

    @property
    def texts(self) -> tuple[str, ...]:
        """The strings of a list, or the one string."""
        if self.kind not in (Kind.SZ, Kind.EXPAND_SZ, Kind.MULTI_SZ):
            return ()
        parts = self.data.decode("utf-16-le", "replace").split("\0")
        return tuple(part for part in parts if part) if self.kind == Kind.MULTI_SZ else (parts[0],)


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a hive; `at` is where its cell lies."""

    hive: Hive
    at: int
    name: str
    class_name: str
    subkey_count: int
    _subkeys_at: int
    _value_count: int
    _values_at: int
    _security_at: int

    def subkeys(self) -> Iterator[Key]:
        """Yield the keys in it, in the order of their names."""
        if self.subkey_count:
            for at in self.hive.listed(self._subkeys_at):
                yield self.hive.key_at(at)

    def subkey(self, name: str) -> Key | None:
        """Return the key of that name in it."""
        wanted = name.casefold()
        return next((key for key in self.subkeys() if key.name.casefold() == wanted), None)

    def values(self) -> Iterator[Value]:
        """Yield its values, in the order of the file."""
        for at in self._listed_values():
            yield self.hive.value_at(at)

    def value(self, name: str) -> Value | None:
        """Return the value of that name."""
        wanted = name.casefold()
        for at in self._listed_values():
            if self.hive.value_name(at).casefold() == wanted:
                return self.hive.value_at(at)
        return None

    def find(self, path: str) -> Key | None:
        r"""Return the key at a path below it: `Services\vmbus`."""
        key: Key | None = self
        for name in path.split("\\"):
            if key is None:
                return None
            key = key.subkey(name)
        return key

    def number(self, name: str) -> int | None:
        """Return the number in the value of that name, None if there is none."""
        value = self.value(name)
        return value.number if value else None

    def text(self, name: str) -> str:
        """Return the text in the value of that name, "" if there is none."""
        value = self.value(name)
        return value.text if value else ""

    def security(self) -> bytes:
        """Return its security descriptor, empty if it has none ("Key security")."""
        return self.hive.security_at(self._security_at)

    def _listed_values(self) -> tuple[int, ...]:
        if not self._value_count:
            return ()
        return _numbers(self.hive.cell(self._values_at), 0, self._value_count)


class Hive:
    """A hive in memory; it must be clean: see `p2v.guest.windows.registry.recover`."""

    _KEY: ClassVar = struct.Struct("<2sH8x8xI4xI4xIIII16x4xHH")
    _VALUE: ClassVar = struct.Struct("<2sHIIIH2x")
    _COMPRESSED_KEY: ClassVar = 0x20
    _COMPRESSED_VALUE: ClassVar = 0x1

    def __init__(self, data: bytes) -> None:
        """Look at a hive's file.

        Raises:
            HiveDamagedError: it is none, dirty, or its bins are broken. Reading it raises this too,
                where it finds a damaged cell.
        """
        self.base = BaseBlock.parse(data)
        if self.base.dirty:
            raise HiveDamagedError("it was not written to its end")
        check_bins(data, self.base.length)
        self._bins = memoryview(data)[PAGE : PAGE + self.base.length]
        self._reads = 0
        self._data_read = 0

    def root(self) -> Key:
        """Return the key that holds all others."""
        return self.key_at(self.base.root)

    def find(self, path: str) -> Key | None:
        """Return the key at a path from the root."""
        return self.root().find(path)

    def cell(self, at: int) -> memoryview:
        """Return what an allocated cell holds ("Cell")."""
        self._reads += 1
        if self._reads > MAX_READS:
            raise HiveDamagedError("its keys and values are more than it has room for")
        if at % 8 or not 0 < at <= len(self._bins) - 8:
            raise HiveDamagedError(f"it has no cell at {at}")
        (size,) = struct.unpack_from("<i", self._bins, at)
        if not 8 <= -size <= len(self._bins) - at:
            raise HiveDamagedError(f"its cell at {at} is free, or too long")
        return self._bins[at + 4 : at - size]

    def key_at(self, at: int) -> Key:
        """Read the key in a cell ("Key node")."""
        cell = self.cell(at)
        if len(cell) < self._KEY.size or _signature(cell) != b"nk":
            raise HiveDamagedError(f"its cell at {at} holds no key")
        fields = self._KEY.unpack_from(cell)
        _, flags, subkeys, subkeys_at, values, values_at, security_at, class_at, *lengths = fields
        name = _name(cell, self._KEY.size, lengths[0], bool(flags & self._COMPRESSED_KEY))
        class_name = ""
        if class_at != _NOTHING and lengths[1]:
            class_name = _name(self.cell(class_at), 0, lengths[1], compressed=False)
        return Key(self, at, name, class_name, subkeys, subkeys_at, values, values_at, security_at)

    def listed(self, at: int) -> Iterator[int]:
        """Yield where the keys of a list lie ("Index leaf", "Fast leaf", "Index root")."""
        listed = 0
        for leaf in self._leaves(at):
            signature, count = _signature(leaf), _count(leaf)
            listed += count
            if listed > MAX_LISTED:
                raise HiveDamagedError(f"its cell at {at} lists too many keys")
            if signature == b"li":
                yield from _numbers(leaf, 4, count)
            elif signature in (b"lf", b"lh"):
                yield from _numbers(leaf, 4, 2 * count)[::2]
            else:
                raise HiveDamagedError(f"its cell at {at} holds no list of keys")

    def value_name(self, at: int) -> str:
        """Read the name of the value in a cell."""
        cell = self._value_cell(at)
        _, length, _, _, _, flags = self._VALUE.unpack_from(cell)
        return _name(cell, self._VALUE.size, length, bool(flags & self._COMPRESSED_VALUE))

    def value_at(self, at: int) -> Value:
        """Read the value in a cell ("Key value")."""
        name = self.value_name(at)
        _, _, size, data_at, kind, _ = self._VALUE.unpack_from(self._value_cell(at))
        if size & _INLINE:
            if (size := size & ~_INLINE) > 4:
                raise HiveDamagedError(f"its value at {at} has {size} bytes in 4")
            return Value(name, kind, data_at.to_bytes(4, "little")[:size])
        return Value(name, kind, self._data(data_at, size) if size else b"")

    def security_at(self, at: int) -> bytes:
        """Read the security descriptor in a cell ("Key security")."""
        if at == _NOTHING:
            return b""
        cell = self.cell(at)
        if len(cell) < 20 or _signature(cell) != b"sk":
            raise HiveDamagedError(f"its cell at {at} holds no security descriptor")
        (size,) = struct.unpack_from("<I", cell, 16)
        return bytes(_cut(cell, 20, size))

    def _value_cell(self, at: int) -> memoryview:
        cell = self.cell(at)
        if len(cell) < self._VALUE.size or _signature(cell) != b"vk":
            raise HiveDamagedError(f"its cell at {at} holds no value")
        return cell

    def _leaves(self, at: int) -> Iterator[memoryview]:
        """Yield the lists that an index root points to, or the list itself."""
        cell = self.cell(at)
        if _signature(cell) == b"ri":
            for leaf_at in _numbers(cell, 4, _count(cell)):
                yield self.cell(leaf_at)
        else:
            yield cell

    def _data(self, at: int, size: int) -> bytes:
        """Return a value's bytes, out of segments if they are big ("Big data")."""
        self._data_read += size
        if self._data_read > MAX_DATA:
            raise HiveDamagedError("its values are more than it has room for")
        cell = self.cell(at)
        if size <= _SEGMENT or _signature(cell) != b"db" or self.base.minor <= 3:
            return bytes(_cut(cell, 0, size))
        (list_at,) = struct.unpack_from("<I", cell, 4)
        count = -(-size // _SEGMENT)
        if count != _count(cell):
            raise HiveDamagedError(f"its cell at {at} holds {_count(cell)} segments of {count}")
        data = bytearray()
        for segment_at in _numbers(self.cell(list_at), 0, count):
            data += _cut(self.cell(segment_at), 0, min(_SEGMENT, size - len(data)))
        return bytes(data)


def walk(key: Key, path: str = "") -> Iterator[tuple[str, Key]]:
    """Yield a key and all below it, each with its path.

    Raises:
        HiveDamagedError: keys are nested in each other, or listed twice.
    """
    seen: set[int] = set()
    levels: list[Iterator[tuple[str, Key]]] = [iter([(path, key)])]
    while levels:
        found = next(levels[-1], None)
        if found is None:
            levels.pop()
            continue
        path, key = found
        if key.at in seen or len(levels) > MAX_DEPTH:
            raise HiveDamagedError(f"its key at {key.at} is listed twice, or too deep")
        seen.add(key.at)
        yield path, key
        levels.append(_below_each(path, key))


def below(path: str, key: Key) -> str:
    """Return the path of a key in the key at a path."""
    return f"{path}\\{key.name}" if path else key.name


def _below_each(path: str, key: Key) -> Iterator[tuple[str, Key]]:
    for subkey in key.subkeys():
        yield below(path, subkey), subkey


def _cut(cell: memoryview, at: int, size: int) -> memoryview:
    if at + size > len(cell):
        raise HiveDamagedError(f"a cell of {len(cell)} bytes should hold {at + size}")
    return cell[at : at + size]


def _signature(cell: memoryview) -> bytes:
    return bytes(cell[:2])


def _count(cell: memoryview) -> int:
    return int.from_bytes(_cut(cell, 2, 2), "little")


def _numbers(cell: memoryview, at: int, count: int) -> tuple[int, ...]:
    if count > 2 * MAX_LISTED:
        raise HiveDamagedError(f"a list in it has {count} entries")
    return struct.unpack(f"<{count}I", _cut(cell, at, 4 * count))


def _name(cell: memoryview, at: int, length: int, compressed: bool) -> str:
    raw = bytes(_cut(cell, at, length))
    return raw.decode("latin-1") if compressed else raw.decode("utf-16-le", "replace")
