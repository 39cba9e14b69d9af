# SPDX-License-Identifier: GPL-3.0-or-later
"""Frozen dataclasses as plain documents and back, strictly.

One walk over the type annotations serves machine and plan, JSON and TOML. Reading is strict because
a plan is written by people and carried out unattended: a misspelt key must not turn into a default.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from p2v.model.errors import UsageError

T = TypeVar("T")


def encode(value: Any) -> Any:
    """Return `value` as dicts, lists and plain values; the order is that of the fields."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    return value


def decode(cls: type[T], document: object, where: str) -> T:
    """Return the `cls` (a dataclass) that `document` describes; `where` names it in errors.

    Raises:
        UsageError: an unknown or missing key, or a value of the wrong type; it names the key.
    """
    if not isinstance(document, Mapping):
        raise UsageError(problem=f"{where} must be a table of keys, not {_kind(document)}")
    hints = _hints(cast(type, cls))
    if unknown := [key for key in document if key not in hints]:
        raise UsageError(
            problem=f"{where} has the unknown key '{unknown[0]}'; known are {', '.join(hints)}"
        )
    values = {key: _value(hints[key], value, f"{where}.{key}") for key, value in document.items()}
    for field in fields(cast(Any, cls)):
        required = field.default is MISSING and field.default_factory is MISSING
        if required and field.name not in values:
            raise UsageError(problem=f"{where} lacks the key '{field.name}'")
    return cls(**values)


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _value(hint: Any, value: object, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _value(next(arg for arg in args if arg is not type(None)), value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UsageError(problem=f"{where} must be a list, not {_kind(value)}")
        return tuple(_value(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if is_dataclass(hint):
        return decode(cast(type, hint), value, where)
    if issubclass(hint, Enum):
        return _member(hint, value, where)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise UsageError(problem=f"{where} must be {_NAMES[hint]}, not {_kind(value)}")
    return value


def _member(enum: type[Enum], value: object, where: str) -> Enum:
    try:
        return enum(value)
    except ValueError:
        known = ", ".join(str(member.value) for member in enum)
        raise UsageError(problem=f"{where} is {value!r}; it may be {known}") from None


_NAMES: dict[type, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a table of keys",
    type(None): "nothing",
}


def _kind(value: object) -> str:
    return _NAMES.get(type(value), type(value).__name__)
