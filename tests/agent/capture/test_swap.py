# SPDX-License-Identifier: GPL-3.0-or-later
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.capture.swap import HEADER_MAX, SwapHeaderError, swap_header, swap_info

UUID = "5facb19f-a714-4517-92ce-0f5aaf32958b"


@pytest.fixture
def swap(tmp_path, run):
    """A used swap of 8 MiB: every byte that mkswap leaves alone is set."""

    def make(page_size=4096):
        path = tmp_path / "swap.img"
        path.write_bytes(b"\xa5" * (8 << 20))
        path.chmod(0o600)
        run("mkswap", "-q", "-p", page_size, "-U", UUID, "-L", "my swap", path)
        return path

    return make


@pytest.mark.parametrize("page_size", [4096, 8192, 16384, 65536])
def test_a_fresh_header_is_what_mkswap_writes(swap, page_size):
    original = swap(page_size).read_bytes()
    header = swap_header(original[:HEADER_MAX])
    assert len(header) == page_size
    # mkswap leaves the first KiB, for boot loaders, as it was.
    assert header[1024:] == original[1024:page_size]
    assert not any(header[:1024])


def test_blkid_and_swaplabel_see_the_same_swap(swap, run):
    path = swap()
    data = swap_header(path.read_bytes()[:HEADER_MAX])
    before = run("blkid", "-p", "-o", "udev", path)
    path.write_bytes(data + bytes((8 << 20) - len(data)))
    assert run("blkid", "-p", "-o", "udev", path) == before
    assert run("swaplabel", path).split() == ["LABEL:", "my", "swap", "UUID:", UUID]


@pytest.mark.root
def test_the_kernel_accepts_the_fresh_swap(swap, run, loop):
    path = swap()
    data = swap_header(path.read_bytes()[:HEADER_MAX])
    path.write_bytes(data + bytes((8 << 20) - len(data)))
    with loop(path) as device:
        run("swapon", device)
        try:
            sizes = [line.split() for line in run("cat", "/proc/swaps").splitlines()]
            assert [row[2] for row in sizes if row[0] == str(device)] == [str((8 << 10) - 4)]
        finally:
            run("swapoff", device)


@pytest.mark.parametrize(
    "signature", [b"S1SUSPEND\0", b"S2SUSPEND\0", b"ULSUSPEND\0", b"LINHIB0001"]
)
def test_a_hibernation_image_is_seen_and_forgotten(swap, signature, run):
    path = swap()
    page = bytearray(path.read_bytes()[:4096])
    page[-10:] = signature
    info = swap_info(bytes(page))
    assert (info.suspended, info.uuid, info.label) == (True, UUID, "my swap")
    assert swap_info(swap_header(bytes(page))).suspended is False
    with path.open("r+b") as file:
        file.write(page)
    assert "ID_FS_TYPE=swsuspend" in run("blkid", "-p", "-o", "udev", path)


def test_another_version_or_byte_order_is_refused(swap):
    page = bytearray(swap().read_bytes()[:4096])
    page[1024:1028] = (1).to_bytes(4, "big")
    with pytest.raises(SwapHeaderError, match="version 16777216"):
        swap_header(bytes(page))


@given(st.binary(max_size=5000))
def test_anything_else_is_refused(data):
    with pytest.raises(SwapHeaderError):
        swap_info(data)
