# SPDX-License-Identifier: GPL-3.0-or-later
"""Change a guest's hives: recovery of dirty ones by our own code, edits by the appliance's hivex.

hivex (https://libguestfs.org/hivex.3.html) is what others convert Windows with. It keeps what it
does not understand, gives new keys their parent's permissions, and runs inside the appliance only.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from p2v.guest.appliance import Appliance
from p2v.guest.edit import DeleteKey, RecoverHive, RegistryAction, SetValue
from p2v.guest.windows.registry.base import MAX_HIVE, HiveDamagedError
from p2v.guest.windows.registry.recover import Recovered, recover
from p2v.model.errors import GuestError

MAX_LOG = 256 * 1024 * 1024


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

    Actions reach a hive's file when another hive is turned to, and when the block ends well; after
    an error none of those since do.
    """

    def __init__(self, appliance: Appliance) -> None:
        self._appliance = appliance
        self._open = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._commit()
        elif self._open:
            self._appliance.handle.hivex_close()

    def apply(self, action: RegistryAction) -> None:
        """Carry out one action.

        Raises:
            GuestError: the hive can't be recovered, read or written.
        """
        if isinstance(action, RecoverHive):
            self._commit()
            self._recover(action)
            return
        self._turn_to(action.hive)
        with self._appliance.calling(f"changing {action.key} in {action.hive}") as handle:
            if isinstance(action, SetValue):
                _set(handle, action)
            else:
                _delete(handle, action)

    def _recover(self, action: RecoverHive) -> None:
        """Put the recovered hive in place, and empty its logs: all that they held is in it."""
        try:
            recovered = read_hive(self._appliance, action.hive, action.logs)
        except HiveDamagedError as error:
            raise GuestError(
                image=self._appliance.name, problem=f"{action.hive}: {error}"
            ) from error
        self._appliance.write(action.hive, recovered.data)
        for log in action.logs:
            self._appliance.write(log, b"")

    def _turn_to(self, hive: str) -> None:
        if hive != self._open:
            self._commit()
            with self._appliance.calling(f"opening {hive}") as handle:
                handle.hivex_open(hive, write=True)
            self._open = hive

    def _commit(self) -> None:
        if self._open:
            with self._appliance.calling(f"writing {self._open}") as handle:
                handle.hivex_commit(None)
                handle.hivex_close()
            self._open = ""


def _set(handle: Any, action: SetValue) -> None:
    node = handle.hivex_root()
    for name in action.key.split("\\"):
        node = handle.hivex_node_get_child(node, name) or handle.hivex_node_add_child(node, name)
    handle.hivex_node_set_value(node, action.name, action.kind, bytes.fromhex(action.data))


def _delete(handle: Any, action: DeleteKey) -> None:
    node = handle.hivex_root()
    for name in action.key.split("\\"):
        node = handle.hivex_node_get_child(node, name)
        if not node:
            return
    handle.hivex_node_delete_child(node)
