"""checkpoint-engine's `ParameterServer`, with weightcast behind it.

    from weightcast.compat import ParameterServer  # in place of checkpoint_engine.ps

What its examples do with it works as it is; the engines' workers stay those of checkpoint-engine, or become weightcast's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .parameter_server import ParameterServer

__all__ = ["ParameterServer"]


def __getattr__(name: str) -> Any:
    """Late: it takes torch, and what else is in here does not."""
    if name != "ParameterServer":
        raise AttributeError(f"module 'weightcast.compat' has no attribute {name!r}")
    from ..needed_packages import needed_by

    with needed_by("weightcast.compat.ParameterServer"):
        from .parameter_server import ParameterServer

    return ParameterServer
