# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.appliance.settings import (
    Settings,
    check,
    combine,
    parse_answers,
    parse_command_line,
    without_secrets,
)
from p2v.model.errors import UsageError
from p2v.model.machine import FirmwareKind
from p2v.model.plan import Codec, ImageFormat

PRINT = "sha256:" + ":".join(["AB"] * 32)


def test_what_is_not_ours_is_left_alone():
    assert parse_command_line("BOOT_IMAGE=/vmlinuz boot=live quiet root=p2v.img") == Settings()


def test_every_kind_of_value_is_read():
    said = parse_command_line(
        "p2v.confirm=yes p2v.server=10.0.0.5 p2v.disks=sda,/dev/sdb p2v.format=qcow2 "
        "p2v.compress p2v.codec=lzf p2v.bwlimit=10M p2v.convert=no p2v.vlan=12 "
        "p2v.name=web01 p2v.post=\"sh -c 'echo a b'\" p2v.ip=10.0.0.9/24,10.0.0.1,10.0.0.2"
    )
    assert said.confirm
    assert said.server == "https://10.0.0.5:8443"
    assert said.disks == ("sda", "/dev/sdb")
    assert (said.format, said.codec) == (ImageFormat.QCOW2, Codec.LZF)
    assert said.compress and not said.convert
    assert (said.bwlimit, said.vlan) == (10 << 20, 12)
    assert said.post == "sh -c 'echo a b'"
    assert said.ip == "10.0.0.9/24,10.0.0.1,10.0.0.2"


def test_the_virtual_machine_is_described_as_on_the_command_line():
    said = parse_command_line(
        "p2v.host=hv1 p2v.vcpu.cores=4 p2v.memory=8G p2v.firmware=uefi p2v.unplugged "
        'p2v.power-on=yes "p2v.network=eno1=LAN:20,*=DMZ one"'
    )
    assert (said.host, said.vcpu, said.memory) == ("hv1", 4, 8 << 30)
    assert said.firmware is FirmwareKind.UEFI
    assert said.network == (("eno1", "LAN", 20), ("*", "DMZ one", 0))
    assert (said.unplugged, said.power_on, said.clustered) == (True, True, False)
    answers = 'cpus = 4\nnetwork = ["eno1=LAN:20", "*=DMZ one"]\n'
    assert parse_answers(answers, "p2v.toml").network == said.network


def test_a_key_in_quotes_as_the_kernel_takes_them():
    assert parse_command_line('"p2v.name=a b"').name == "a b"


def test_an_answer_file_has_the_same_keys():
    text = f'confirm = "yes"\nserver = "c"\nfingerprint = "{PRINT}"\ndisks = ["a", "b"]\n'
    said = parse_answers(text + "all-blocks = true\nvlan = 3\n", "p2v.toml")
    assert said.disks == ("a", "b") and said.all_blocks and said.vlan == 3


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("p2v.servr=a", "p2v.servr"),
        ("p2v.=a", "p2v."),
        ("p2v.confirm=maybe", "p2v.confirm"),
        ("p2v.confirm", "p2v.confirm"),
        ("p2v.server=http://a", "p2v.server"),
        ("p2v.vlan=4095", "p2v.vlan"),
        ("p2v.vlan=1_0_0_0_0", "p2v.vlan"),
        ("p2v.ip=10.0.0.1", "p2v.ip"),
        ("p2v.ip=10.0.0.1/24,gate", "p2v.ip"),
        ("p2v.format=vmdk", "p2v.format"),
        ("p2v.of=raw p2v.format=raw", "p2v."),
        ("p2v.fingerprint=12", "p2v.fingerprint"),
        ("p2v.name=a p2v.name=b", "p2v.name"),
        ("p2v.font=huge", "p2v.font"),
        ("p2v.vcpu=0", "p2v.vcpu"),
        ("p2v.memory=1", "p2v.memory"),
        ("p2v.firmware=efi", "p2v.firmware"),
        ("p2v.network=LAN", "p2v.network"),
        ("p2v.network=eno1=LAN:5000", "p2v.network"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_name(line, named):
    with pytest.raises(UsageError, match=named):
        parse_command_line(line)


def test_a_misspelt_key_says_which_one_may_be_meant():
    with pytest.raises(UsageError, match="is 'server' meant"):
        parse_command_line("p2v.servr=a")


@pytest.mark.parametrize(
    "text", ["confirm = ", "[disks]\na=1", "disks = [1]", "vlan = true", "name = 3", "x = 1"]
)
def test_an_answer_file_that_makes_no_sense_is_refused(text):
    with pytest.raises(UsageError, match=r"p2v\.toml"):
        parse_answers(text, "p2v.toml")


def test_the_command_line_counts_before_the_answer_file():
    both = combine(Settings(name="line"), Settings(name="file", token="t", vlan=5))
    assert (both.name, both.token, both.vlan) == ("line", "t", 5)


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(server="c"),
        Settings(server="c", token="t"),
        Settings(server="c", token="t", code="c", fingerprint=PRINT),
        Settings(server="c", stream="P2VDATA", code="c"),
    ],
)
def test_settings_that_are_not_enough_to_start_are_refused(settings):
    with pytest.raises(UsageError):
        check(settings)


def test_settings_that_are_enough_are_taken():
    check(Settings(server="c", token="t", fingerprint=PRINT))
    check(Settings(server="c", code="c"))
    check(Settings(stream="P2VDATA"))


@pytest.mark.parametrize(
    "line",
    [
        "a p2v.token=SECRET b",
        'a p2v.token="SEC RET" b',
        'a "p2v.token=SECRET" b',
        "p2v.code=SECRET",
    ],
)
def test_secrets_are_hidden(line):
    shown = without_secrets(line)
    assert "SEC" not in shown and "RET" not in shown
    assert shown.endswith("b") == line.endswith("b")


def test_settings_do_not_show_their_secrets():
    assert "SECRET" not in repr(Settings(token="SECRET", code="SECRET"))


@given(st.text(max_size=200))
def test_no_command_line_is_a_bug(text):
    for line in (text, f"p2v.{text}", f'p2v.ip={text} "', f"p2v.vlan={text}"):
        try:
            parse_command_line(line)
        except UsageError:
            continue


@given(
    st.text(
        alphabet=st.characters(
            blacklist_characters='"\n\r\t \x0b\x0c', blacklist_categories=("Cs", "Z", "C")
        ),
        min_size=8,
    )
)
def test_no_secret_of_any_spelling_is_shown(secret):
    assert secret not in without_secrets(f"x p2v.token={secret} p2v.code={secret}")
