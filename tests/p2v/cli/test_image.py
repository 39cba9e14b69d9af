# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import os
import pty
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from p2v.cli.main import main

MiB = 1 << 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """`a.raw`, the same as `a.vhdx` and `a.qcow2`, and `b.raw`, which differs in one byte."""
    folder = tmp_path_factory.mktemp("images")
    data = bytearray(random.Random(4).randbytes(2 * MiB) + bytes(6 * MiB))
    (folder / "a.raw").write_bytes(data)
    for kind in ("vhdx", "qcow2"):
        command = ["qemu-img", "convert", "-O", kind, folder / "a.raw", folder / f"a.{kind}"]
        subprocess.run(command, check=True)
    data[MiB + 5] ^= 1
    (folder / "b.raw").write_bytes(data)
    return folder


def p2v(capsys, *words: object) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


# --- info ----------------------------------------------------------------------------------------


def test_info_is_compact_and_aligned(folder, capsys):
    code, out, _ = p2v(capsys, "image", "info", folder / "a.vhdx")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == str(folder / "a.vhdx")
    assert "  format        vhdx (dynamic)" in lines
    assert "  virtual size  8.0 MiB (8388608 bytes)" in lines
    assert any(re.fullmatch(r"  creator       QEMU v.*", line) for line in lines)


def test_info_as_json_holds_every_documented_field(folder, capsys):
    code, out, _ = p2v(capsys, "image", "info", "--json", folder / "a.raw", folder / "a.qcow2")
    assert code == 0
    raw, qcow2 = json.loads(out)["images"]
    assert (raw["format"], raw["virtual_size"]) == ("raw", 8 * MiB)
    assert (qcow2["format"], qcow2["block_size"], qcow2["allocated"]) == ("qcow2", 65536, 2 * MiB)
    text = (Path(__file__).parents[3] / "docs/json.md").read_text()
    table = text.split("## `p2v image info")[1].split("## `p2v image check")[0]
    assert set(re.findall(r"`(\w+)`", table)) >= set(raw)


# --- check ---------------------------------------------------------------------------------------


def test_a_clean_image_ends_with_0(folder, capsys):
    code, out, err = p2v(capsys, "image", "check", folder / "a.qcow2")
    assert (code, err) == (0, "")
    assert out == f"{folder / 'a.qcow2'}: qcow2: no errors found\n"


def test_warnings_end_with_3(folder, capsys):
    code, out, _ = p2v(capsys, "image", "check", folder / "a.vhdx")
    assert code == 3
    assert "warning region-not-required at byte 196624" in out
    assert "no errors, 2 warnings" in out


def test_errors_end_with_50_and_the_worst_of_several_counts(folder, tmp_path, capsys):
    bad = tmp_path / "bad.qcow2"
    data = bytearray((folder / "a.qcow2").read_bytes())
    data[47] = 7  # the L1 table's offset
    bad.write_bytes(data)
    code, out, _ = p2v(capsys, "image", "check", "--json", bad, folder / "a.qcow2")
    assert code == 50
    broken, good = json.loads(out)["images"]
    assert (broken["verdict"], good["verdict"]) == ("errors", "clean")
    finding = broken["findings"][0]
    assert (finding["severity"], finding["code"], finding["offset"]) == ("error", "l1-offset", 40)
    assert broken["info"] is None and good["info"]["format"] == "qcow2"


def test_an_incomplete_image_has_its_own_verdict(folder, tmp_path, capsys):
    path = tmp_path / "a.raw.partial"
    path.write_bytes((folder / "a.raw").read_bytes())
    code, out, _ = p2v(capsys, "image", "check", path)
    assert code == 50 and "INCOMPLETE" in out
    code, out, _ = p2v(capsys, "image", "check", "--json", path)
    assert json.loads(out)["images"][0]["verdict"] == "incomplete"


def test_asking_for_an_image_that_is_still_partial_says_so(folder, tmp_path, capsys):
    (tmp_path / "a.raw.partial").write_bytes(b"x" * 512)
    code, _, err = p2v(capsys, "image", "check", tmp_path / "a.raw")
    assert code == 50 and "is incomplete" in err


def test_a_missing_file_stops_before_the_others_are_checked(folder, capsys):
    code, out, err = p2v(capsys, "image", "check", folder / "a.qcow2", folder / "none")
    assert (code, out) == (23, "")
    assert err.splitlines()[0].endswith("is no disk or image file here.")
    assert "Check the name" in err


def test_deep_checks_report_progress_as_lines(folder, capsys):
    code, _, err = p2v(capsys, "image", "check", "--deep", "--progress", "json", folder / "a.raw")
    assert code == 0
    lines = [json.loads(line) for line in err.splitlines()]
    assert lines and lines[-1]["total"] == 8 * MiB


def test_many_findings_are_summed_up(folder, tmp_path, capsys):
    bad = tmp_path / "bad.qcow2"
    data = bytearray((folder / "a.qcow2").read_bytes())
    table = int.from_bytes(data[48:56], "big")
    block = int.from_bytes(data[table : table + 8], "big")
    data[block : block + 64] = bytes(64)
    bad.write_bytes(data)
    code, out, _ = p2v(capsys, "image", "check", bad)
    assert code == 50
    assert "... and 12 more of refcount-low" in out


# --- compare -------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["a.vhdx", "a.qcow2", "a.raw"])
def test_the_same_disk_ends_with_0(other, folder, capsys):
    words = ("image", "compare", "--progress", "none", folder / "a.raw", folder / other)
    code, out, err = p2v(capsys, *words)
    assert (code, err) == (0, "")
    assert out.startswith("same contents: ")


def test_different_disks_end_with_50_and_the_place(folder, capsys):
    code, out, _ = p2v(capsys, "image", "compare", folder / "a.vhdx", folder / "b.raw")
    assert code == 50
    assert f"differ from byte {MiB} on: 4096 bytes" in out
    assert "DIFFERENT: 4.0 KiB (4096 bytes) in 1 range" in out


def test_compare_as_json_holds_what_is_documented(folder, capsys):
    words = ("--json", folder / "a.raw", folder / "b.raw")
    code, out, _ = p2v(capsys, "image", "compare", *words)
    document = json.loads(out)
    assert code == 50 and document["same"] is False
    assert document["ranges"] == [{"offset": MiB, "length": 4096}]
    text = (Path(__file__).parents[3] / "docs/json.md").read_text()
    assert set(re.findall(r"`(\w+)`", text.split("## `p2v image compare")[1])) >= set(document)


def test_an_ignored_range_is_not_compared(folder, capsys):
    words = ("--ignore", "1M:4k", folder / "a.raw", folder / "b.raw")
    code, out, _ = p2v(capsys, "image", "compare", *words)
    assert code == 0 and "4.0 KiB (4096 bytes) ignored" in out


@pytest.mark.parametrize("text", ["1M", "x:y", "0:0", ":", "1M:-3"])
def test_a_bad_range_is_a_usage_error(text, folder, capsys):
    words = ("--ignore", text, folder / "a.raw", folder / "b.raw")
    code, _, err = p2v(capsys, "image", "compare", *words)
    assert code == 2 and "is no range" in err


def test_a_longer_disk_is_noted(folder, tmp_path, capsys):
    longer = tmp_path / "longer.raw"
    longer.write_bytes((folder / "a.raw").read_bytes() + bytes(512))
    code, out, _ = p2v(capsys, "image", "compare", folder / "a.raw", longer)
    assert code == 0 and f"note: {longer} is 512 bytes longer" in out


# --- terminals -----------------------------------------------------------------------------------


def on_a_terminal(*words: object, **environment: str) -> str:
    """Return what `p2v` writes to a terminal of 80 columns."""
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "p2v.cli.main", *map(str, words)]
    fixed = {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    kept = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    subprocess.run(command, stdout=child, stderr=child, env={**kept, **fixed, **environment})
    os.close(child)
    output = b""
    try:
        while piece := os.read(parent, 65536):
            output += piece
    except OSError:  # Linux answers EIO when the other end is closed
        pass
    finally:
        os.close(parent)
    return output.decode()


def test_a_terminal_gets_colour(folder):
    assert "\x1b[33m" in on_a_terminal("image", "check", folder / "a.vhdx")


def test_no_color_is_honoured(folder):
    out = on_a_terminal("image", "check", folder / "a.vhdx", NO_COLOR="1")
    assert "warning" in out and "\x1b[" not in out


def test_a_terminal_gets_a_bar(folder):
    out = on_a_terminal("image", "compare", folder / "a.raw", folder / "a.vhdx")
    assert "compare" in out and "8.0" in out and '"progress"' not in out


def test_a_pipe_gets_no_escapes(folder, capsys):
    _, out, _ = p2v(capsys, "image", "check", folder / "a.vhdx")
    assert "\x1b" not in out
