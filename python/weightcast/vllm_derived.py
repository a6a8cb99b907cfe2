"""Tensors that vLLM computes from a model's weights and keeps beside its parameters, and where they lie.

A reload copies new parameters into the memory that captured CUDA graphs read. What layers compute of them it puts into
new memory: the halves of MLA's `kv_b_proj` where that is quantised, the scales that kernels of experts hold. Graphs
would go on reading what was there before, or what has come there since.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from .live_tensors import own_attributes

_DEEPEST = 6
"""Steps from a layer to a tensor that it holds."""

_WALKED = ("vllm.model_executor.", "vllm.v1.attention.")
"""Modules of the classes whose objects a layer has for itself: quantisation methods, kernels, attention backends."""

_OF_REQUESTS = ("kv_cache", "metadata")
"""In the names of what belongs to what the engine answers just now, not to the weights."""

class DerivedTensors:
    """Of one model, as they are when this is made."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._before = derived_tensors(model)

    def put_back(self) -> None:
        """Copies what was computed since into the memory from before, where it has the same form."""
        for path, owner, key, tensor in list(_held(self._model)):
            before = self._before.get(path)
            if before is None or before.data_ptr() == tensor.data_ptr() or _form(before) != _form(tensor):
                continue
            before.data.copy_(tensor)
            owner[key] = before


def renew_combined_gates(model: torch.nn.Module) -> None:
    """Renews, in place, what vLLM's MoE runners join of two gates at their first forward pass, and never again.

    Without that a model that fuses the gate of its shared experts (Qwen3-Next) would route by its old gates.
    """
    for layer in model.modules():
        combined = getattr(layer, "_combined_gate_weight", None)
        if combined is not None:
            combined.data.copy_(torch.cat([layer.gate.weight, layer.shared_expert_gate.weight], dim=0))


def derived_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """By the path to it: the layer's name, a colon, and the attributes from there."""
    return {path: tensor for path, _, _, tensor in _held(model)}


Held = tuple[str, Any, Any, torch.Tensor]
"""Path, the dictionary or list that holds the tensor, its key there, and the tensor."""


def _held(model: torch.nn.Module) -> Iterator[Held]:
    seen: set[int] = set()
    for path, layer in model.named_modules():
        for name, _ in own_attributes(layer):
            yield from _held_by(vars(layer), name, f"{path}:{name}", 0, seen)


def _held_by(owner: Any, key: Any, path: str, depth: int, seen: set[int]) -> Iterator[Held]:
    if isinstance(key, str) and any(word in key for word in _OF_REQUESTS):
        return
    value = owner[key]
    if isinstance(value, torch.Tensor):
        if not value.is_meta and value.layout == torch.strided and value.numel() > 0:
            yield path, owner, key, value
        return
    members = _members(value)
    if members is None or depth == _DEEPEST or id(value) in seen:
        return
    seen.add(id(value))
    for name in list(members) if isinstance(members, dict) else range(len(members)):
        yield from _held_by(members, name, f"{path}.{name}", depth + 1, seen)


def _members(value: Any) -> dict[Any, Any] | list[Any] | None:
    if isinstance(value, (dict, list)):
        return value
    # Layers that hold each other are walked by their own names.
    if isinstance(value, (type, torch.nn.Module)) or not type(value).__module__.startswith(_WALKED):
        return None
    return getattr(value, "__dict__", None)


def _form(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device
