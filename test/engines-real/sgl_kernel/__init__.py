"""In the place of SGLang's kernels, which have no build for every CPU.

SGLang imports names of them all over, and needs none of them for a small dense model there: every name exists, and
raises when it is called.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

__version__ = "0.0.0"


def __getattr__(name: str) -> Callable[..., Any]:
    if name.startswith("__"):
        raise AttributeError(name)

    def kernel(*_values: object, **_named: object) -> None:
        raise NotImplementedError(f"there is no kernel {name} on this CPU")

    return kernel


class _Submodules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(
        self, name: str, _path: Sequence[str] | None, _target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        # SGLang has types of its own for one that cannot be imported.
        if not name.startswith("sgl_kernel.") or name == "sgl_kernel.scalar_type":
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, _spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: types.ModuleType) -> None:
        vars(module)["__getattr__"] = __getattr__


sys.meta_path.append(_Submodules())
