# SPDX-License-Identifier: GPL-3.0-or-later
r"""The first start: a service that runs `firstboot.ps1` once, and removes itself.

Why a service: it needs the SYSTEM hive only, runs before anybody logs on, as LocalSystem, on every
edition. RunOnce waits for an administrator to log on; `Setup\CmdLine` runs in a half-started system
and stops it from starting at all when it fails. PowerShell can't answer the service manager, so the
service is a `cmd.exe` that starts it and ends; the manager notes that in its log and goes on
(ErrorControl 0). What is given as `-Command` is no script file, and so no execution policy, of a
group policy either, keeps it from running.

https://learn.microsoft.com/windows-hardware/drivers/install/hklm-system-currentcontrolset-services-registry-tree
https://learn.microsoft.com/powershell/module/microsoft.powershell.core/about/about_execution_policies
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files

from p2v.guest.edit import Area, Edit, WriteFile
from p2v.guest.windows.facts import WindowsFacts
from p2v.guest.windows.network import Carried, table
from p2v.guest.windows.registry.hive import Kind
from p2v.guest.windows.values import set_number, set_text, set_texts

FOLDER = "p2v-firstboot"
SERVICE = "p2v-firstboot"
SCRIPT = "firstboot.ps1"
_OWN_PROCESS, _AUTOMATIC, _IGNORE_ERRORS = 0x10, 2, 0
_COMMAND = (
    r'%SystemRoot%\System32\cmd.exe /d /c start "" /b '
    r"%SystemRoot%\System32\WindowsPowerShell\v1.0\powershell.exe -NoLogo -NoProfile "
    r'-NonInteractive -Command "iex ([IO.File]::ReadAllText($env:SystemRoot'
    rf" + '\{FOLDER}\{SCRIPT}'))"
    '"'
)


def folder(windows: WindowsFacts) -> str:
    """Return the path of the folder with all that the first start needs."""
    return f"{windows.system_root}/{FOLDER}"


def plan(windows: WindowsFacts, interfaces: list[Carried], *, drivers: bool) -> Iterator[Edit]:
    """Yield the edits that have the first start finish the conversion, if anything is left to it.

    `drivers` says that there are drivers to install in `folder`.
    """
    current = windows.control_set()
    reboot = current.auto_reboot if current else 0
    if not interfaces and not drivers and not reboot:
        return
    yield _write(windows, SCRIPT, script(), "what the first start does")
    yield _write(
        windows,
        "settings.csv",
        f'"AutoReboot"\r\n"{int(bool(reboot))}"\r\n',
        "what it switches back",
    )
    if interfaces:
        yield _write(windows, "interfaces.csv", table(interfaces), "the adapters' addresses")
    for control_set in windows.control_sets:
        key = rf"{control_set.name}\Services\{SERVICE}"
        for action in (
            set_number(windows.hive, key, "Type", _OWN_PROCESS),
            set_number(windows.hive, key, "Start", _AUTOMATIC),
            set_number(windows.hive, key, "ErrorControl", _IGNORE_ERRORS),
            set_text(windows.hive, key, "ImagePath", _COMMAND, Kind.EXPAND_SZ),
            set_text(windows.hive, key, "DisplayName", "p2v first start"),
            set_text(windows.hive, key, "ObjectName", "LocalSystem"),
            set_texts(windows.hive, key, "DependOnService", ["RpcSs", "Winmgmt"]),
        ):
            yield Edit(
                area=Area.BOOT,
                what=f"run {SCRIPT} at the first start ({control_set.name})",
                reason="some things can be set only while Windows runs on the new hardware",
                action=action,
            )


def script() -> str:
    """Return the script; it is the same for all guests."""
    return files("p2v.guest.windows").joinpath(SCRIPT).read_text().replace("\n", "\r\n")


def _write(windows: WindowsFacts, name: str, text: str, what: str) -> Edit:
    return Edit(
        area=Area.BOOT,
        what=f"add {name}: {what}",
        reason="the first start finishes the conversion",
        action=WriteFile(f"{folder(windows)}/{name}", text),
    )
