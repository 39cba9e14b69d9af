# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the live image's settings come from: the kernel's command line, a stick, the network.

What the command line says counts before an answer file, and that before ``p2v.config=URL``.
"""

from __future__ import annotations

from pathlib import Path

from agent.appliance import sticks
from agent.appliance.hardware import load_from
from agent.appliance.image import LIVE_MEDIUM
from agent.appliance.settings import Settings, combine, parse_answers, parse_command_line
from p2v.model.errors import UnreachableError, UsageError

COMMAND_LINE = Path("/proc/cmdline")
ANSWERS = "p2v.toml"

_TIMEOUT_S = 30
_USB_S = 15.0
_MAX_ANSWERS = 1 << 20


def from_here() -> Settings:
    """Return what the command line, the medium and a stick say; needs no network.

    Raises:
        UsageError: one of them makes no sense.
    """
    settings = parse_command_line(COMMAND_LINE.read_text(errors="replace"))
    with sticks.mounted(sticks.CONFIG_LABEL) as stick:
        for folder in (stick, LIVE_MEDIUM):
            if folder is not None and (folder / ANSWERS).is_file():
                settings = combine(settings, _read(folder / ANSWERS))
    return settings


def load_drivers() -> list[str]:
    """Load drivers and firmware from the stick with settings; return the names of the files.

    Raises:
        UsageError: two sticks have that label.
        ToolError: what is on it cannot be installed.
    """
    sticks.await_usb(_USB_S)
    with sticks.mounted(sticks.CONFIG_LABEL) as stick:
        return load_from(stick) if stick is not None else []


def with_config(settings: Settings) -> Settings:
    """Return `settings` with what is found at their `config` address, if they have one.

    Raises:
        UnreachableError: nobody answers there, or not with a file.
        UsageError: what is there makes no sense.
    """
    if not settings.config:
        return settings
    import requests

    try:
        with requests.get(settings.config, timeout=_TIMEOUT_S, stream=True) as answer:
            answer.raise_for_status()
            content = answer.raw.read(_MAX_ANSWERS + 1, decode_content=True)
    except (requests.RequestException, OSError) as error:
        raise UnreachableError(server=settings.config, problem=str(error)) from error
    return combine(settings, _parse(content, settings.config))


def _read(path: Path) -> Settings:
    with path.open("rb") as file:
        return _parse(file.read(_MAX_ANSWERS + 1), f"the answer file {path.name}")


def _parse(content: bytes, where: str) -> Settings:
    if len(content) > _MAX_ANSWERS:
        raise UsageError(problem=f"{where} is longer than {_MAX_ANSWERS} bytes")
    try:
        return parse_answers(content.decode(), where)
    except UnicodeDecodeError:
        raise UsageError(problem=f"{where} is no text in UTF-8") from None
