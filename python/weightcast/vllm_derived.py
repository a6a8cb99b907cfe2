"""Tensors that vLLM computes from a model's weights and keeps beside its parameters, and where they lie.

A reload copies new parameters into the memory that captured CUDA graphs read. What layers compute of them it puts into
new memory: the halves of MLA's `kv_b_proj` where that is quantised, the scales that kernels of experts hold. Graphs
would go on reading what was there before, or what has come there since.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from .live_tensors import Held, Walks
from .model_layers import named_layers


class DerivedTensors:
    """Of one model, as they are when this is made."""

    def __init__(self, model: torch.nn.Module, walks: Walks) -> None:
        self._model = model
        self._walks = walks
        self._held = walks.of(model).held
        self._before = {held.path: held.tensor for held in self._held}
        self._layers = {id(vars(layer)) for _, layer in named_layers(model)}

    def put_back(self) -> None:
        """Copies what was computed since into the memory from before, where it has the same form."""
        self._walks.changed()
        # All of it, in most models: then nobody has to look through them once more.
        if all(map(self._is_in_place, self._held)):
            return
        moved = [
            (held, self._before[held.path])
            for held in self._walks.of(self._model).held
            if self._lay_elsewhere(held)
        ]
        for held, before in moved:
            before.data.copy_(held.tensor)
            held.replace(before)
        if moved:
            self._walks.changed()

    def _is_in_place(self, held: Held) -> bool:
        """Of what a layer itself has. What others have for it, others may have taken the place of."""
        return id(held.owner) in self._layers and held.owner.get(held.key) is held.tensor

    def _lay_elsewhere(self, held: Held) -> bool:
        before = self._before.get(held.path)
        if before is None or before.data_ptr() == held.tensor.data_ptr():
            return False
        return _form(before) == _form(held.tensor)


def renew_combined_gates(layers: Iterable[Any]) -> None:
    """Renews, in place, what vLLM's MoE runners join of two gates at their first forward pass, and never again.

    Without that a model that fuses the gate of its shared experts (Qwen3-Next) would route by its old gates.
    """
    for layer in layers:
        combined = vars(layer).get("_combined_gate_weight")
        if combined is not None:
            combined.data.copy_(torch.cat([layer.gate.weight, layer.shared_expert_gate.weight], dim=0))


def _form(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device
