"""weightcast: the engine's half (`weightcast.worker` is what vLLM and SGLang are given), and the trainer's (`connect`)."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Late, so that importing the package needs nothing and never raises."""
    if name in ("connect", "Publisher"):
        from . import publisher

        return getattr(publisher, name)
    raise AttributeError(f"module 'weightcast' has no attribute {name!r}")
