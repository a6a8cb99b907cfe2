"""What layers of a vLLM that are not whole yet hold on to, of the tensors that `load_weights` was given."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import BoundArguments
from typing import Any

import torch


class HeldTensors:
    """Of one update of one model. `infos`: vLLM's records of its layers."""

    def __init__(self, infos: Sequence[Any]) -> None:
        self._infos = infos
        # By layer: how many of the tensors that it holds are known to be no part of the link buffer.
        self._clean = [0] * len(infos)

    def begin(self) -> None:
        """Layers wait for weights now, and have got none."""
        for info in self._infos:
            info.loaded_weights = _Counted(info)

    def own(self, link_buffer: set[int]) -> None:
        """Copies what is still held of memory that is about to be overwritten. `link_buffer`: addresses of its storages."""
        for index, info in enumerate(self._infos):
            held = info.loaded_weights
            if len(held) == self._clean[index]:
                continue
            if isinstance(held, _Counted):
                held.drop_unread(self._clean[index])
            for _, arguments in held[self._clean[index] :]:
                _clone_arguments(arguments, link_buffer)
            self._clean[index] = len(held)


class _Counted(list[Any]):
    """What a layer holds, with how many elements its loaders had copied before each of these: vLLM runs them once to count."""

    def __init__(self, info: Any) -> None:
        super().__init__()
        self._info = info
        self._before: list[int] = []

    def append(self, held: Any) -> None:
        self._before.append(self._info.load_numel)
        super().append(held)

    def drop_unread(self, start: int) -> None:
        """Experts of other workers, from that one on: their loaders pass over them now and when the layer is whole."""
        before = self._before[start:]
        after = [*before, self._info.load_numel][1:]
        counts = zip(self[start:], before, after, strict=True)
        kept = [(held, first) for held, first, last in counts if last > first or not _is_of_expert(held[1])]
        self[start:] = [held for held, _ in kept]
        self._before[start:] = [first for _, first in kept]


def _is_of_expert(arguments: BoundArguments) -> bool:
    """Not a scale of one number: loaders write it in ways that vLLM does not count, and some want that of every expert."""
    weight = arguments.arguments.get("loaded_weight")
    return "expert_id" in arguments.arguments and isinstance(weight, torch.Tensor) and weight.numel() > 1


def _clone_arguments(arguments: BoundArguments, link_buffer: set[int]) -> None:
    def owned(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.clone() if _is_in(value, link_buffer) else value
        if type(value) in (tuple, list):
            return type(value)(map(owned, value))
        if type(value) is dict:
            return {key: owned(entry) for key, entry in value.items()}
        return value

    for name, value in arguments.arguments.items():
        arguments.arguments[name] = owned(value)


def _is_in(tensor: torch.Tensor, link_buffer: set[int]) -> bool:
    return not tensor.is_meta and tensor.untyped_storage().data_ptr() in link_buffer
