"""checkpoint-engine's `ParameterServer`, with weightcast behind it.

    from weightcast.compat import ParameterServer  # in place of checkpoint_engine.ps

What its examples do with it works as it is; the engines' workers stay those of checkpoint-engine, or become weightcast's.
"""

from .parameter_server import ParameterServer

__all__ = ["ParameterServer"]
