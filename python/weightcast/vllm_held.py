"""What layers of a vLLM that are not whole yet hold on to, of the tensors that `load_weights` was given."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from inspect import BoundArguments
from typing import Any

import torch

_PLAIN = frozenset({str, int, bool, float, type(None)})


class HeldTensors:
    """Of one update of one model. `infos`: vLLM's records of its layers."""

    def __init__(self, infos: Sequence[Any]) -> None:
        self._infos = infos
        # By layer: how many of the tensors that it holds are known to be no part of the link buffer.
        self._clean = [0] * len(infos)
        self._grown: set[int] = set()

    def begin(self) -> None:
        """Layers wait for weights now, and have got none."""
        for index, info in enumerate(self._infos):
            info.loaded_weights = _Counted(info, index, self._grown)

    def own(self, link_buffer: set[int]) -> None:
        """Copies what is still held of memory that is about to be overwritten. `link_buffer`: addresses of its storages."""
        self._own(range(len(self._infos)), link_buffer)

    def own_new(self, link_buffer: set[int]) -> None:
        """Of the layers that were seen to get something since: where that is all that is held, has to be made sure of."""
        self._own(sorted(self._grown), link_buffer)

    def _own(self, layers: Iterable[int], link_buffer: set[int]) -> None:
        for index in layers:
            held = self._infos[index].loaded_weights
            if len(held) == self._clean[index]:
                continue
            if isinstance(held, _Counted):
                held.drop_unread(self._clean[index])
            for _, arguments in held[self._clean[index] :]:
                _clone_arguments(arguments.arguments, link_buffer)
            self._clean[index] = len(held)
        self._grown.clear()


def waiting_for_others(layers: Iterable[Any]) -> list[dict[str, Any]]:
    """What models themselves keep of tensors until another one comes, by the layer's name: vLLM's DeepSeek V3.2 and MiMo V2, of an
    FP8 weight and its scale. They never forget it, so it outlives an update that ends in between."""
    pending = [vars(layer)[name] for layer in layers for name in vars(layer) if name.startswith("_pending_")]
    return [value for value in pending if type(value) is dict and all(map(_has_tensors, value.values()))]


def _has_tensors(entry: Any) -> bool:
    return type(entry) is dict and all(isinstance(one, torch.Tensor) for one in entry.values())


class _Counted(list[Any]):
    """What a layer holds, with how many elements its loaders had copied before each of these: vLLM runs them once to count."""

    def __init__(self, info: Any, index: int, grown: set[int]) -> None:
        super().__init__()
        self._info = info
        self._index = index
        self._grown = grown
        self._before: list[int] = []

    def append(self, held: Any) -> None:
        self._before.append(self._info.load_numel)
        self._grown.add(self._index)
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


def _clone_arguments(values: dict[str, Any], link_buffer: set[int]) -> None:
    for name, value in values.items():
        if type(value) not in _PLAIN:
            values[name] = _owned(value, link_buffer)


def _owned(value: Any, link_buffer: set[int]) -> Any:
    if isinstance(value, torch.Tensor):
        return value.clone() if _is_in(value, link_buffer) else value
    if type(value) in (tuple, list):
        return type(value)(_owned(entry, link_buffer) for entry in value)
    if type(value) is dict:
        return {key: _owned(entry, link_buffer) for key, entry in value.items()}
    return value


def _is_in(tensor: torch.Tensor, link_buffer: set[int]) -> bool:
    return not tensor.is_meta and tensor.untyped_storage().data_ptr() in link_buffer
