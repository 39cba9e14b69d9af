# SPDX-License-Identifier: GPL-3.0-or-later
"""What the live image is told: ``p2v.KEY=VALUE`` on the kernel's command line, or an answer file.

Names are virt-p2v's where it has one (virt-p2v(1), "KERNEL COMMAND LINE CONFIGURATION"). Parsing
is pure and strict: an unknown key stops everything with its name, since a misspelt one would
otherwise migrate something else than was asked for.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from ipaddress import ip_address, ip_interface
from typing import Any, TypeVar

from agent.vm import parse_connection, parse_cpus, parse_memory_size
from p2v.model.errors import UsageError
from p2v.model.machine import FirmwareKind
from p2v.model.plan import Codec, ImageFormat
from p2v.model.units import parse_size

PREFIX = "p2v."
SECRETS = ("token", "code")
HIDDEN = "(hidden)"
_MAX_WORDS = 64 * 1024
_ALIASES = {"of": "format", "cpus": "vcpu", "vcpu.cores": "vcpu"}
_TRUE, _FALSE = ("yes", "true", "1", ""), ("no", "false", "0")


@dataclass(frozen=True, slots=True)
class Settings:
    """What to do without being asked. An empty text or tuple is what was not said."""

    confirm: bool = False
    """Nothing starts by itself without it."""
    server: str = ""
    fingerprint: str = ""
    token: str = field(default="", repr=False)
    code: str = field(default="", repr=False)
    stream: str = ""
    """Label of the file system that the migration is written to, instead of a converter."""
    name: str = ""
    id: str = ""
    """Of the migration; by default made from the name and the machine, so that a machine that is
    started again goes on with it."""
    disks: tuple[str, ...] = ()
    """By default all that are not removable."""
    exclude: tuple[str, ...] = ()
    format: ImageFormat = ImageFormat.VHDX
    compress: bool = False
    all_blocks: bool = False
    codec: Codec = Codec.AUTO
    bwlimit: int = 0
    convert: bool = True
    host: str = ""
    """That the virtual machine is made on; none is made where it is empty."""
    storage: str = ""
    vcpu: int = 0
    memory: int = 0
    firmware: FirmwareKind | None = None
    network: tuple[tuple[str, str, int], ...] = ()
    """As `agent.vm.VmChoices` has them."""
    unplugged: bool = False
    clustered: bool = False
    power_on: bool = False
    interface: str = ""
    ip: str = ""
    vlan: int = 0
    wait: int = 120
    """Seconds until the network must be there."""
    pre: str = ""
    post: str = "poweroff"
    fail: str = ""
    config: str = ""
    font: str = ""
    shell: bool = False


def parse_command_line(text: str) -> Settings:
    """Return what a kernel command line says.

    Raises:
        UsageError: an unknown key, one given twice, or a value that makes no sense.
    """
    return make_settings(_pairs(text), "the kernel command line")


def parse_answers(text: str, where: str) -> Settings:
    """Return what the answer file at `where` says: TOML, the same keys without ``p2v.``.

    Raises:
        UsageError: it is no TOML, or as `parse_command_line`.
    """
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(problem=f"{where} is no TOML: {error}") from None
    return make_settings(document, where)


def make_settings(values: Mapping[str, Any], where: str) -> Settings:
    """Return the settings in `values`; `where` names their origin in errors.

    Raises:
        UsageError: as `parse_command_line`.
    """
    found: dict[str, Any] = {}
    for given, value in values.items():
        key = _key(given, where)
        if key in found:
            raise UsageError(problem=f"'{given}' is said twice on {where}")
        try:
            found[key] = _READERS[key](value)
        except UsageError as error:
            raise UsageError(problem=f"'{given}' on {where}: {error}") from None
    return Settings(**found)


def combine(first: Settings, second: Settings) -> Settings:
    """Return `first`, and where it says nothing what `second` says."""
    default = Settings()
    said = {
        item.name: getattr(second, item.name)
        for item in fields(Settings)
        if getattr(first, item.name) == getattr(default, item.name)
    }
    return replace(first, **said)


def check(settings: Settings) -> None:
    """Make sure that `settings` are enough to start unattended.

    Raises:
        UsageError: something is missing, or two of them contradict each other.
    """
    if bool(settings.server) == bool(settings.stream):
        raise UsageError(problem="p2v.confirm=yes needs one of p2v.server and p2v.stream")
    if settings.server and bool(settings.token) == bool(settings.code):
        raise UsageError(problem="p2v.server needs one of p2v.token and p2v.code")
    if settings.token and not settings.fingerprint:
        raise UsageError(problem="p2v.token needs p2v.fingerprint, which 'p2v serve' prints")


def without_secrets(text: str) -> str:
    """Return a text that may hold a kernel command line with the values of secrets hidden."""
    for name in SECRETS:
        for quote in ("", '"'):
            text = _hide(text, f"{quote}{PREFIX}{name}=")
    return text


def _hide(text: str, start: str) -> str:
    parts = text.split(start)
    return start.join([parts[0], *(HIDDEN + _after_value(part) for part in parts[1:])])


def _after_value(text: str) -> str:
    """Return what follows the value that `text` begins with."""
    if text.startswith('"'):
        return text.partition('"')[2].partition('"')[2]
    end = next((at for at, char in enumerate(text) if char.isspace() or char == '"'), len(text))
    return text[end:]


def _pairs(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in _words(text):
        name, _, value = word.partition("=")
        if not name.startswith(PREFIX):
            continue
        if name in found:
            raise UsageError(problem=f"'{name}' is said twice on the kernel command line")
        found[name] = value
    return found


def _words(text: str) -> Iterator[str]:
    """Yield the words as the kernel's next_arg() cuts them: quotes hold them together."""
    word, quoted = "", False
    for char in text[:_MAX_WORDS]:
        if char == '"':
            quoted = not quoted
        elif char.isspace() and not quoted:
            if word:
                yield word
            word = ""
        else:
            word += char
    if word:
        yield word


def _key(given: str, where: str) -> str:
    key = given.removeprefix(PREFIX).replace("-", "_")
    key = _ALIASES.get(key, key)
    if key in _READERS:
        return key
    near = get_close_matches(key, _READERS, 1)
    meant = f"; is '{near[0]}' meant?" if near else ""
    raise UsageError(problem=f"'{given}' on {where} is no setting of p2v{meant}")


T = TypeVar("T")


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise UsageError(problem="a text is wanted")
    return value


def _yes(value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = _text(value).lower()
    if word in (*_TRUE, *_FALSE):
        return word in _TRUE
    raise UsageError(problem="yes or no is wanted")


def _said_yes(value: object) -> bool:
    """What starts a migration is to be written out."""
    if value is True or value == "yes":
        return True
    raise UsageError(problem="only 'yes' confirms")


def _names(value: object) -> tuple[str, ...]:
    parts = value if isinstance(value, list) else _text(value).split(",")
    return tuple(_text(part) for part in parts if part)


def _number(low: int, high: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        try:
            number = int(str(value))
        except ValueError:
            number = low - 1
        if isinstance(value, bool) or not low <= number <= high:
            raise UsageError(problem=f"a number from {low} to {high} is wanted")
        return number

    return read


def _one_of(kind: Callable[[str], T]) -> Callable[[object], T]:
    def read(value: object) -> T:
        try:
            return kind(_text(value))
        except ValueError:
            known = ", ".join(str(item) for item in kind)  # type: ignore[attr-defined]
            raise UsageError(problem=f"one of {known} is wanted") from None

    return read


def _server(value: object) -> str:
    from agent.stream.remote import Address  # late: it brings all of HTTP along

    return str(Address.parse(_text(value)))


def _fingerprint(value: object) -> str:
    from p2v.model.pairing import parse_fingerprint  # late: it brings cryptography along

    parse_fingerprint(_text(value))
    return _text(value)


def _address(value: object) -> str:
    """``dhcp``, or ADDRESS/BITS[,GATEWAY[,NAMESERVER...]]."""
    text = _text(value)
    if text == "dhcp":
        return text
    try:
        own, *others = text.split(",")
        if "/" not in own:
            raise ValueError
        ip_interface(own)
        for other in others:
            ip_address(other)
    except ValueError:
        raise UsageError(problem="'dhcp' or ADDRESS/BITS,GATEWAY,NAMESERVER is wanted") from None
    return text


def _font(value: object) -> str:
    if value not in ("normal", "large"):
        raise UsageError(problem="normal or large is wanted")
    return str(value)


_READERS: dict[str, Callable[[object], Any]] = {
    "confirm": _said_yes,
    "server": _server,
    "fingerprint": _fingerprint,
    "token": _text,
    "code": _text,
    "stream": _text,
    "name": _text,
    "id": _text,
    "disks": _names,
    "exclude": _names,
    "format": _one_of(ImageFormat),
    "compress": _yes,
    "all_blocks": _yes,
    "codec": _one_of(Codec),
    "bwlimit": lambda value: parse_size(_text(value)),
    "convert": _yes,
    "host": _text,
    "storage": _text,
    "vcpu": lambda value: parse_cpus(str(value)),
    "memory": lambda value: parse_memory_size(_text(value)),
    "firmware": _one_of(FirmwareKind),
    "network": lambda value: tuple(parse_connection(name) for name in _names(value)),
    "unplugged": _yes,
    "clustered": _yes,
    "power_on": _yes,
    "interface": _text,
    "ip": _address,
    "vlan": _number(1, 4094),
    "wait": _number(1, 3600),
    "pre": _text,
    "post": _text,
    "fail": _text,
    "config": _text,
    "font": _font,
    "shell": _yes,
}

assert _READERS.keys() == {item.name for item in fields(Settings)}  # noqa: S101 - one list each
