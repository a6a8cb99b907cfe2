"""What the environment says, by the names that checkpoint-engine reads."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..client_errors import UsageError

_GIB = 1 << 30


@dataclass(frozen=True)
class Limits:
    """Of memory, in updates."""

    #: None: as weightcast chooses.
    bucket_bytes: int | None
    #: Of the free memory of a device.
    memory_fraction: float


def environment(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise UsageError(f"{name} is not set: start this with torchrun, or give it as an argument")
    return value


def environment_number(name: str) -> int:
    text = environment(name)
    if not text.isdecimal():
        raise UsageError(f"{name} is {text!r}; torchrun sets it to a number")
    return int(text)


def limits_of(mem_fraction: float | None) -> Limits:
    """`mem_fraction`: in place of PS_MEM_FRACTION."""
    fraction = _number("PS_MEM_FRACTION") if mem_fraction is None else mem_fraction
    if fraction is None:
        fraction = 0.9
    if not 0 < fraction <= 1:
        raise UsageError(f"mem_fraction (PS_MEM_FRACTION) is {fraction:g}; it must be above 0, and at most 1")
    gib = _number("PS_MAX_BUCKET_SIZE_GB")
    if gib is not None and not gib > 0:
        raise UsageError(f"PS_MAX_BUCKET_SIZE_GB is {gib:g}; it must be above 0")
    return Limits(None if gib is None else int(gib * _GIB), fraction)


def _number(name: str) -> float | None:
    text = os.environ.get(name)
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{name} is {text!r}, which is no number") from None
