# SPDX-License-Identifier: GPL-3.0-or-later
"""What differs between two hives, as people and Windows see them: keys, values, permissions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from p2v.guest.windows.registry.hive import Hive, Key, Value, below, walk


@dataclass(frozen=True, slots=True)
class Difference:
    """A change of one key, or of one value of it.

    Attributes:
        key: path from the root.
        name: of the value ("" for the default one); None where the key itself changed.
        before, after: the value; None for a value or key that is not there. A key that is there on
            both sides and has other permissions or another class has None twice.
    """

    key: str
    name: str | None
    before: Value | Key | None
    after: Value | Key | None


def differences(before: Hive, after: Hive) -> Iterator[Difference]:
    """Yield all differences; a key that came or went is one, followed by what is in it.

    Times of writing, the layout of the file and the order of values are none.

    Raises:
        HiveDamagedError: one of them is damaged.
    """
    for _ in walk(before.root()):
        pass  # a key that is listed twice would be compared over and over
    todo = [("", before.root(), after.root())]
    while todo:
        path, old, new = todo.pop()
        yield from _of_key(path, old, new)
        olds = {key.name.casefold(): key for key in old.subkeys()}
        news = {key.name.casefold(): key for key in new.subkeys()}
        for name in sorted(olds.keys() | news.keys(), reverse=True):
            found, put = olds.get(name), news.get(name)
            if found and put:
                todo.append((below(path, put), found, put))
            elif found:
                for at, key in walk(found, below(path, found)):
                    yield Difference(at, None, key, None)
                    yield from (Difference(at, v.name, v, None) for v in key.values())
            elif put:
                for at, key in walk(put, below(path, put)):
                    yield Difference(at, None, None, key)
                    yield from (Difference(at, v.name, None, v) for v in key.values())


def _of_key(path: str, old: Key, new: Key) -> Iterator[Difference]:
    if old.class_name != new.class_name or old.security() != new.security():
        yield Difference(path, None, None, None)
    olds = {value.name.casefold(): value for value in old.values()}
    news = {value.name.casefold(): value for value in new.values()}
    for name in sorted(olds.keys() | news.keys()):
        found, put = olds.get(name), news.get(name)
        if found is None or put is None or (found.kind, found.data) != (put.kind, put.data):
            yield Difference(path, (olds | news)[name].name, found, put)
