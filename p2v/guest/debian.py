# SPDX-License-Identifier: GPL-3.0-or-later
"""Loads the Python modules that only Debian ships: guestfs and hivex are not on PyPI.

They are found in Debian's folder by name. Putting that folder on `sys.path` instead would let
Debian's versions of other packages shadow those of the environment.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from types import ModuleType

from p2v.model.errors import ToolError

DIST_PACKAGES = "/usr/lib/python3/dist-packages"


def load(name: str, *extensions: str) -> ModuleType:
    """Return Debian's module `name`; `extensions` are the modules that it imports from beside it.

    Raises:
        ToolError: it is not installed, or not for this version of Python.
    """
    for each in (*extensions, name):
        if each in sys.modules:
            continue
        spec = PathFinder.find_spec(each, [DIST_PACKAGES])
        if spec is None or spec.loader is None:
            problem = f"Debian's package python3-{name} is not installed for this Python"
            raise ToolError(tool=name, problem=problem)
        module = sys.modules[each] = module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[each]
            raise
    return sys.modules[name]
