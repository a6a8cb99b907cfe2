"""What vLLM finds by the entry point `vllm.general_plugins` in each of its processes: a name for our engine.

It costs nothing but a dictionary entry, unless the engine was started with

    --weight-transfer-config '{"backend": "weightcast"}'
"""

from __future__ import annotations

import logging

logger = logging.getLogger("vllm.weightcast")

BACKEND = "weightcast"


def register() -> None:
    """May be called several times. Never raises: an engine that does not use weightcast starts all the same."""
    try:
        from vllm.distributed.weight_transfer import base, factory
    except ImportError:
        return
    engines = getattr(factory, "WeightTransferEngineFactory", None)
    if not hasattr(getattr(base, "WeightTransferEngine", None), "start_weight_update"):
        logger.debug("this vLLM's weight-transfer engines have no sessions; weightcast is not one of them")
        return
    try:
        engines.register_engine(BACKEND, "weightcast.vllm_transfer", "WeightcastTransferEngine")
    except ValueError:
        # It is registered already.
        return
    except Exception:
        logger.exception("weightcast is not registered as a weight-transfer engine")
