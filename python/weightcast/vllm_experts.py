"""Which experts are known to compute, after vLLM's reload, with what was loaded."""

from __future__ import annotations

from typing import Any

from .errors import ModelNotReloadable

ACCEPT_UNPROVEN = "WEIGHTCAST_ACCEPT_UNPROVEN"
"""Environment variable; `1`: reload also experts that are not known to compute with what was loaded."""

_PROVEN = {"UnquantizedFusedMoEMethod", "Fp8MoEMethod by blocks", "Fp8OnlineMoEMethod"}
"""Ways with which a real engine answered after updates as a fresh start, eagerly and with CUDA graphs, each with
vLLM's Triton kernels: bench/results/engines.md."""
_PROVEN_KERNELS = "TRITON"


def check_experts(layer: Any, which: str) -> None:
    """Raises ModelNotReloadable for experts that nobody has seen to be right. `which` model, for the message."""
    method = getattr(layer, "quant_method", None)
    if not any(base.__name__ == "FusedMoEMethodBase" for base in type(method).__mro__):
        return
    kind, kernels = _kind_of(method), _kernels_of(method)
    if kind not in _PROVEN:
        seen, remedy = f"experts quantised in a way ({kind})", ""
    elif kernels != _PROVEN_KERNELS:
        seen = f"experts ({kind}) with kernels ({kernels})"
        remedy = "start the engine with --moe-backend triton, or "
    else:
        return
    raise ModelNotReloadable(
        f"the {which} model has {seen} of which nobody has seen that they answer after vLLM's reload as after a fresh "
        f"start; {remedy}set {ACCEPT_UNPROVEN}=1 in the engine's environment to reload them all the same"
    )


def _kind_of(method: Any) -> str:
    blocks = " by blocks" if getattr(method, "block_quant", False) else ""
    return type(method).__name__ + blocks


def _kernels_of(method: Any) -> str:
    backend = getattr(method, "unquantized_backend", None) or getattr(method, "fp8_backend", None)
    return "unknown" if backend is None else str(getattr(backend, "name", backend))
