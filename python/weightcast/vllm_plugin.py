"""What vLLM finds by the entry point `vllm.general_plugins` in each of its processes: names for our two sides of its weight
transfer, the engine's and the trainer's.

It costs nothing but two dictionary entries, unless the engine was started with

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
    if hasattr(getattr(base, "WeightTransferEngine", None), "start_weight_update"):
        _register(factory, "WeightTransferEngineFactory", "weightcast.vllm_transfer", "WeightcastTransferEngine")
    else:
        logger.debug("this vLLM's weight-transfer engines have no sessions; weightcast is not one of them")
    if hasattr(base, "TrainerInitInfo"):
        _register(factory, "WeightTransferTrainerFactory", "weightcast.vllm_trainer", "WeightcastTrainer")


def _register(factory: object, name: str, module: str, kind: str) -> None:
    try:
        getattr(factory, name).register_engine(BACKEND, module, kind)
    except ValueError:
        # It is registered already.
        return
    except Exception:
        logger.exception("weightcast is not registered in vLLM's %s", name)
