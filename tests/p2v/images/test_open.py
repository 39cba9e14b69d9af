# SPDX-License-Identifier: GPL-3.0-or-later
"""Formats are found by their first bytes, and only the module that is needed is loaded."""

import os
import subprocess
import sys
from contextlib import closing

import pytest

from p2v.images.base import ImageReader, StoresZstd
from p2v.images.open import create_writer, open_reader, probe, resume_writer
from p2v.model.errors import ImageError, ImageIncompleteError, UsageError
from p2v.model.plan import ImageFormat
from p2v.model.units import MiB


@pytest.mark.parametrize("form", ImageFormat)
def test_each_format_is_written_resumed_and_found_again(tmp_path, form):
    path = tmp_path / "disk"
    with closing(create_writer(form, path, 3 * MiB)) as writer:
        assert (writer.format, writer.size, writer.path) == (form, 3 * MiB, path)
        writer.write(MiB, b"one")
        writer.checkpoint()
        with pytest.raises(ImageIncompleteError) as caught:
            open_reader(path)
        assert "disk.partial is incomplete" in str(caught.value)
        with pytest.raises(ImageIncompleteError):
            open_reader(writer.partial)
    with closing(resume_writer(form, path)) as writer:
        writer.write(2 * MiB, b"two")
        writer.commit()
    assert probe(path) is form
    reader: ImageReader
    for told in (None, form):
        with closing(open_reader(path, told)) as reader:
            content = bytearray(3 * MiB)
            reader.readinto(0, content)
            assert content.count(0) == 3 * MiB - 6
            assert (content[MiB : MiB + 3], content[2 * MiB : 2 * MiB + 3]) == (b"one", b"two")
            assert sum(extent.length for extent in reader.extents()) == 3 * MiB


@pytest.mark.parametrize("form", ["vpc", "vmdk"])
def test_what_no_format_claims_is_raw(tmp_path, form):
    path = tmp_path / "disk"
    subprocess.run(["qemu-img", "create", "-q", "-f", form, path, "1M"], check=True)
    assert probe(path) is ImageFormat.RAW
    path.write_bytes(b"")
    assert probe(path) is ImageFormat.RAW


def test_a_raw_disk_that_starts_like_another_format_is_raw_when_told_so(tmp_path):
    path = tmp_path / "disk.raw"
    path.write_bytes(b"QFI\xfb" + bytes(508))
    with closing(open_reader(path, ImageFormat.RAW)) as reader:
        assert reader.format is ImageFormat.RAW
    with pytest.raises(ImageError):
        open_reader(path)


def test_only_qcow2_is_compressed(tmp_path):
    for form in (ImageFormat.RAW, ImageFormat.VHDX):
        with pytest.raises(UsageError, match=f"{form} images"):
            create_writer(form, tmp_path / "disk", MiB, compressed=True)
    with closing(
        create_writer(ImageFormat.QCOW2, tmp_path / "disk", MiB, compressed=True)
    ) as writer:
        assert isinstance(writer, StoresZstd)
    with closing(resume_writer(ImageFormat.QCOW2, tmp_path / "disk")) as writer:
        assert isinstance(writer, StoresZstd)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(ImageError, match="no such image"):
        open_reader(tmp_path / "absent")
    with pytest.raises(ImageError, match="neither a file nor a block device"):
        open_reader(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageError, match="neither a file nor a block device"):
        open_reader(tmp_path / "pipe")


def test_raw_does_not_load_the_other_formats(tmp_path):
    (tmp_path / "disk").write_bytes(bytes(512))
    program = (
        "import sys; from pathlib import Path; from p2v.images.open import open_reader; "
        "from p2v.model.plan import ImageFormat; "
        "open_reader(Path(sys.argv[1]), ImageFormat.RAW); "
        "print([name for name in sys.modules if 'qcow2' in name or 'vhdx' in name])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "disk"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "[]"
