"""Which version the models of this process were given last, by whichever cluster: the engine's own name of it is what people
tell it, and not every engine has one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

_versions: WeakKeyDictionary[Any, str | None] = WeakKeyDictionary()
"""None while an update is under way, and when it broke off after something was changed."""


def is_changing(models: Iterable[Any]) -> None:
    for model in models:
        _versions[model] = None


def is_installed(models: Iterable[Any], version: str) -> None:
    """`version`: `checkpoint@digest`."""
    for model in models:
        _versions[model] = version


def held_by(model: Any) -> dict[str, str | None] | None:
    """None if weightcast has changed nothing in it. Its `version` is None where it holds parts of two."""
    return {"version": _versions[model]} if model in _versions else None
