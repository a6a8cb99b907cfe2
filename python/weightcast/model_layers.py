"""The layers of a model and what they have, in a tenth of the time that torch takes to say it: an engine is paused meanwhile."""

from __future__ import annotations

import functools
from typing import Any

import torch

Named = list[tuple[str, Any]]
"""Paths and layers."""


def named_layers(model: torch.nn.Module) -> Named:
    """As `model.named_modules()`: each layer once, by the first of its paths, before those that it has."""
    found: Named = []
    seen: set[int] = set()
    waiting: Named = [("", model)]
    while waiting:
        path, layer = waiting.pop()
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        found.append((path, layer))
        prefix = f"{path}." if path else ""
        members = [(prefix + name, member) for name, member in layer._modules.items() if member is not None]
        waiting += reversed(members)
    return found


@functools.lru_cache(maxsize=1_024)
def has_base(kind: type, name: str) -> bool:
    """Whether a class is or comes from one of that name: engines' classes, which need not be there to be imported."""
    return any(base.__name__ == name for base in kind.__mro__)


def member_of(layer: Any, name: str) -> Any:
    """What a layer has of that name, itself a layer or not; None if nothing."""
    own = vars(layer)
    if name in own:
        return own[name]
    member = own.get("_modules", {}).get(name)
    # A module takes long to say that it has none. Its class may have one.
    return getattr(layer, name, None) if member is None and hasattr(type(layer), name) else member
