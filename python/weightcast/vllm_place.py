"""Where a vLLM worker stands: workers of the same place hold the same after the same update."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from .model_layers import named_layers

Place = dict[str, str | int]

_GROUPS = ("tp", "pp", "ep", "dcp")
"""vLLM's parallel groups that decide which part of the weights a worker has.

Not `dp`: workers of several data-parallel ranks hold the same, unless experts are spread over them; then their `ep` rank
tells them apart.
"""


def place_of(which: str, model: torch.nn.Module, vllm_config: Any, device: torch.device) -> Place:
    """`which`: `target` or `draft`."""
    model_config = getattr(vllm_config, "model_config", None)
    place: Place = {
        "engine": "vllm",
        "version": _version("vllm"),
        "torch": str(torch.__version__),
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"cpu, {torch.get_num_threads()} threads",
        "model": type(model).__name__,
        "which": which,
        "dtype": str(getattr(model_config, "dtype", "")),
        "quantization": str(getattr(model_config, "quantization", None)),
        "graphs": int(captures_graphs(vllm_config, device)),
        # Kernels pack weights as they like them.
        "kernels": " ".join(sorted(_kernels_of(model))),
    }
    for group in _GROUPS:
        rank, size = _rank_in(group)
        if size > 1:
            place[group] = f"{rank} of {size}"
    return place


def captures_graphs(vllm_config: Any, device: torch.device) -> bool:
    """Whether captured CUDA graphs read weights by their addresses."""
    if device.type != "cuda" or getattr(vllm_config.model_config, "enforce_eager", False):
        return False
    mode = getattr(getattr(vllm_config, "compilation_config", None), "cudagraph_mode", None)
    return mode is None or getattr(mode, "name", "") != "NONE"


def _kernels_of(model: torch.nn.Module) -> set[str]:
    found = set()
    for _, layer in named_layers(model):
        held = vars(layer)
        method = held.get("quant_method")
        for value in (method, held.get("impl"), held.get("scheme"), getattr(method, "kernel", None)):
            if value is not None and not isinstance(value, torch.nn.Module):
                found.add(type(value).__name__)
        backend = getattr(method, "fp8_backend", None) or getattr(method, "unquantized_backend", None)
        if backend is not None:
            found.add(str(getattr(backend, "name", backend)))
    return found


def _rank_in(group: str) -> tuple[int, int]:
    """0 of 1 where this vLLM has no such group."""
    try:
        state = importlib.import_module("vllm.distributed.parallel_state")
        one = getattr(state, f"get_{group}_group")()
        return one.rank_in_group, one.world_size
    except (ImportError, AttributeError, AssertionError):
        return 0, 1


def _version(package: str) -> str:
    version = getattr(importlib.import_module(package), "__version__", None)
    return str(version) if version else "unknown"
