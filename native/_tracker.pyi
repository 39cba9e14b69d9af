# SPDX-License-Identifier: GPL-3.0-or-later
"""The change tracker's programs in the kernel, and the bitmaps that their marks end up in.

Not imported by `native` itself: it needs libbpf. What blocks or walks memory releases the GIL. A
bitmap is any contiguous writable buffer; granule n is bit n % 8 of byte n / 8. Failing system
calls raise `OSError`; its `__notes__` hold what the kernel's verifier said.
"""

from typing import Final, final

from typing_extensions import Buffer

MIN_GRANULE: Final[int]
"""The smallest granule, in bytes."""
MAP_PAGE: Final[int]
"""Bytes of a value in the map that `ArrayMap.take` reads."""

def bits_set(bits: Buffer, first: int, count: int) -> None:
    """Set `count` bits from `first` on; ValueError where the bitmap is too short."""

def bits_or(into: Buffer, bits: Buffer) -> None:
    """Set in one bitmap what is set in another; ValueError where their lengths differ."""

def bits_count(bits: Buffer) -> int:
    """Return how many bits are set."""

def bits_runs(bits: Buffer, start: int) -> list[tuple[int, int]]:
    """Return (first, count) of the next runs of set bits from `start` on, 512 at most."""

def device_key(major: int, minor: int) -> int:
    """Return the key of a disk with a device number."""

def nvme_key(subsystem: int, head: int) -> int:
    """Return the key of the multipath disk nvme<subsystem>n<head>, whatever its paths."""

def nvme_path_key(name: bytes) -> int:
    """Return the key of the multipath disk below which `name` is a path, 0 where it is none."""

def has_atomic_or() -> bool:
    """Whether the kernel's programs can set a bit (Linux 5.12); a byte a granule is the other way.

    Also False where this process may load no programs at all.
    """

@final
class CoreTracker:
    """Programs with types (CO-RE) on the block layer: they mark what is written, until closed.

    `program` is the object file, `disks` the keys and sizes in bytes of up to 256 disks, `granule`
    a power of two in bytes. With `bytewise` a granule takes a byte instead of a bit.

    Attributes:
        disks: how many there are; methods take a disk's place among them.
    """

    disks: Final[int]
    def __init__(
        self, program: bytes, disks: list[tuple[int, int]], granule: int, bytewise: bool
    ) -> None: ...
    def close(self) -> None:
        """Detach the programs; any other call raises ValueError from now on."""

    def bits_length(self, index: int) -> int:
        """Return the bytes that a bitmap of the disk has: whole words of 64 bits."""

    def take(self, index: int, bits: Buffer) -> None:
        """Move the marks of the disk into `bits`, beside what is set there, and clear them.

        A mark set by a program is found by this call or by the next one, never lost.
        """

    def peek(self, index: int, first: int, count: int) -> bytearray:
        """Return a bitmap of `count` granules from `first` on: those that are marked stay so."""

    def counts(self, index: int) -> tuple[int, int, int, int]:
        """Return four counters of the disk that only grow; marks may be missing for the last three.

        Sectors of 512 bytes that completed; passthrough commands with data to the device;
        operations that name no range; ranges beyond the end.
        """

    def lost(self) -> int:
        """Return the most events that the kernel may have kept from the programs, of any disk.

        The programs have copies that stand in for each other; this is what all of them skipped at
        most. Kernels before 6.1 skip nothing.
        """

@final
class ArrayMap:
    """An array in the kernel that programs share with this process.

    Attributes:
        value_length: bytes a value, at most `MAP_PAGE`.
        entries: how many values.
    """

    value_length: Final[int]
    entries: Final[int]
    def __init__(self, name: str, value_length: int, entries: int) -> None: ...
    def __getitem__(self, index: int) -> bytes: ...
    def __setitem__(self, index: int, value: bytes) -> None: ...
    def fileno(self) -> int:
        """Return the descriptor, for a program's instructions; ValueError when closed."""

    def close(self) -> None:
        """Release it."""

    def take(self, first: int, granules: int, shift: int, generation: int, bits: Buffer) -> None:
        """Set the bits of a disk's granules whose unit holds `generation` (1 to 255).

        A unit is a byte of the map and stands for 1 << `shift` granules; `first` is the unit that
        the disk begins with.
        """

def load_program(name: str, instructions: bytes) -> int:
    """Load a program for a classic tracepoint; return its descriptor."""

def attach_tracepoint(program: int, identifier: int, cpu: int) -> int:
    """Run a program at every hit of a tracepoint until the returned descriptor is closed.

    `cpu` is any that is online; hits on all CPUs count.
    """

def skipped(program: int) -> int:
    """Return how often the kernel says it skipped a program; always 0 on older ones."""

def settle() -> None:
    """Wait until every program that is running now has ended."""
