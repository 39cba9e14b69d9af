# SPDX-License-Identifier: GPL-3.0-or-later
"""Change a guest's hives: recovery of dirty ones by our own code, edits by the appliance's hivex.

hivex (https://libguestfs.org/hivex.3.html) is what others convert Windows with. It keeps what it
does not understand, gives new keys their parent's permissions, and runs inside the appliance only.
"""

from __future__ import annotations

from typing import Any

from p2v.guest.appliance import Appliance
from p2v.guest.edit import DeleteKey, RecoverHive, RegistryAction, SetValue
from p2v.guest.windows.registry.base import MAX_HIVE, HiveDamagedError
from p2v.guest.windows.registry.hive import Value
from p2v.guest.windows.registry.recover import Recovered, recover
from p2v.model.errors import GuestError
from p2v.model.units import MiB

MAX_LOG = 256 * MiB
_SHOWN = 32


def read_hive(appliance: Appliance, hive: str, logs: tuple[str, ...]) -> Recovered:
    """Return a hive of the guest as it is once its logs are applied; the guest is not changed.

    Raises:
        HiveDamagedError: it is too large, or can't be recovered.
        GuestError: a file can't be read.
    """
    for path, limit in ((hive, MAX_HIVE), *((log, MAX_LOG) for log in logs)):
        if (size := appliance.size(path)) > limit:
            raise HiveDamagedError(f"{path} has {size} bytes")
    content = [appliance.read(log, MAX_LOG) for log in logs]
    return recover(appliance.read(hive, MAX_HIVE), content)


class Registry:
    """The hives of a guest whose file systems are mounted for writing.

    Actions reach a hive's file when another hive is turned to, and with `close`.
    """

    def __init__(self, appliance: Appliance) -> None:
        self._appliance = appliance
        self._open = ""

    def apply(self, action: RegistryAction) -> tuple[str, str]:
        """Carry out one action; return what was there before and after, for people.

        Raises:
            GuestError: the hive can't be recovered, read or written.
        """
        if isinstance(action, RecoverHive):
            self.close()
            return self._recover(action)
        self._turn_to(action.hive)
        with self._appliance.calling(f"changing {action.key} in {action.hive}") as handle:
            return _set(handle, action) if isinstance(action, SetValue) else _delete(handle, action)

    def close(self) -> None:
        """Write the hive that is open.

        Raises:
            GuestError: it can't be written.
        """
        if self._open:
            with self._appliance.calling(f"writing {self._open}") as handle:
                handle.hivex_commit(None)
                handle.hivex_close()
            self._open = ""

    def _recover(self, action: RecoverHive) -> tuple[str, str]:
        """Put the recovered hive in place, and empty its logs: all that they held is in it."""
        try:
            recovered = read_hive(self._appliance, action.hive, action.logs)
        except HiveDamagedError as error:
            problem = f"{action.hive}: {error}"
            raise GuestError(image=self._appliance.name, problem=problem) from error
        self._appliance.write(action.hive, recovered.data)
        for log in action.logs:
            self._appliance.write(log, b"")
        return "written in part", f"clean, with {recovered.applied} changes from its logs"

    def _turn_to(self, hive: str) -> None:
        if hive != self._open:
            self.close()
            with self._appliance.calling(f"opening {hive}") as handle:
                handle.hivex_open(hive, write=True)
            self._open = hive


def _set(handle: Any, action: SetValue) -> tuple[str, str]:
    node = handle.hivex_root()
    for name in action.key.split("\\"):
        node = handle.hivex_node_get_child(node, name) or handle.hivex_node_add_child(node, name)
    before = handle.hivex_node_get_value(node, action.name)
    shown = _shown(handle, before) if before else ""
    handle.hivex_node_set_value(node, action.name, action.kind, bytes.fromhex(action.data))
    return shown, action.shown


def _delete(handle: Any, action: DeleteKey) -> tuple[str, str]:
    node = handle.hivex_root()
    for name in action.key.split("\\"):
        node = handle.hivex_node_get_child(node, name)
        if not node:
            return "", ""
    values = [
        (handle.hivex_value_key(each), _shown(handle, each)) for each in _values(handle, node)
    ]
    handle.hivex_node_delete_child(node)
    return ", ".join(f"{name} {shown}" for name, shown in values), ""


def _values(handle: Any, node: int) -> list[int]:
    return [each["hivex_value_h"] for each in handle.hivex_node_values(node)]


def _shown(handle: Any, value: int) -> str:
    """Return a value as people read it."""
    read = Value("", handle.hivex_value_type(value), handle.hivex_value_value(value))
    if read.number is not None:
        return str(read.number)
    return f"'{', '.join(read.texts)}'" if read.texts else read.data[:_SHOWN].hex()
