"""Which version the models of this process were given last, by whichever cluster, and whether they still hold it: the engine's
own name of it is what people tell it, and not every engine has one."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from .fingerprints import fingerprint_of

logger = logging.getLogger(__name__)


@dataclass
class _Given:
    version: str | None
    """None while an update is under way, and when it broke off after something was changed."""
    fingerprint: bytes | None
    """Of the model with this version. None where it cannot be taken."""


_given: WeakKeyDictionary[Any, _Given] = WeakKeyDictionary()


def is_changing(models: Iterable[Any]) -> None:
    for model in models:
        _given[model] = _Given(None, None)


def is_installed(models: Iterable[Any], version: str) -> None:
    """`version`: `checkpoint@digest`."""
    for model in models:
        _given[model] = _Given(version, _fingerprint_of(model))


def held_by(model: Any, *, is_readable: bool = True) -> dict[str, Any] | None:
    """None if weightcast has changed nothing in it. Its `version` is None where it holds parts of two, and where somebody else
    has changed it since (`isForeign`).

    `is_readable`: of a model whose memory cannot be read now it is not known whether it has changed.
    """
    given = _given.get(model)
    if given is None:
        return None
    now = _fingerprint_of(model) if is_readable and given.fingerprint is not None else None
    if now is not None and now != given.fingerprint:
        return {"version": None, "isForeign": True}
    return {"version": given.version}


def _fingerprint_of(model: Any) -> bytes | None:
    try:
        return fingerprint_of(model)
    except Exception:
        logger.exception("changes of the model by others will not be noticed")
        return None
