"""Which experts are known to compute, after vLLM's reload, with what was loaded."""

from __future__ import annotations

from typing import Any

from .errors import ModelNotReloadable
from .model_layers import has_base, member_of, named_layers

_PROVEN_METHOD = "UnquantizedFusedMoEMethod"
_PROVEN_KERNELS = "TRITON"
"""With these a real engine answered after updates as a fresh start, eagerly and with CUDA graphs
(bench/results/engines.md). Quantised ones did, too, where they were tried; but others answered wrongly, the same way
each time, and which kernels a vLLM takes for them differs between versions and GPUs."""

_REMEDY = "give a baseline or answers to compare with, or accept what is unproven (acceptUnproven)"


def check_experts(layer: Any, which: str) -> None:
    """Raises ModelNotReloadable for experts that nobody has seen to be right. `which` model, for the message."""
    method = member_of(layer, "quant_method")
    if not has_base(type(method), "FusedMoEMethodBase"):
        return
    kind, kernels = type(method).__name__, _kernels_of(method)
    if kind != _PROVEN_METHOD:
        raise ModelNotReloadable(
            f"the {which} model has quantised experts ({kind}, kernels {kernels}), which are not known to answer rightly "
            f"after vLLM's reload: {_REMEDY}"
        )
    if kernels != _PROVEN_KERNELS:
        raise ModelNotReloadable(
            f"the {which} model has experts with kernels ({kernels}) which are not known to answer rightly after vLLM's "
            f"reload: start the engine with --moe-backend triton, or {_REMEDY}"
        )


def share_of_experts(model: Any) -> float:
    """Of the experts of each layer, how many this worker keeps: 1 where all, or where there are none."""
    share = 0.0
    for _, layer in named_layers(model):
        held = vars(layer)
        local, every = held.get("local_num_experts"), held.get("global_num_experts", held.get("logical_num_experts"))
        if isinstance(local, int) and isinstance(every, int) and every > 0:
            share = max(share, min(1.0, local / every))
    return share or 1.0


def _kernels_of(method: Any) -> str:
    backend = getattr(method, "unquantized_backend", None) or getattr(method, "fp8_backend", None)
    return "unknown" if backend is None else str(getattr(backend, "name", backend))
