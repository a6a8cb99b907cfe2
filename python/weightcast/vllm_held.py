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

    def own(self, link_buffer: set[int]) -> None:
        """Copies what is still held of memory that is about to be overwritten. `link_buffer`: addresses of its storages."""
        for index, info in enumerate(self._infos):
            if info.loaded_weights:
                for _, arguments in info.loaded_weights[self._clean[index] :]:
                    _clone_arguments(arguments, link_buffer)
                self._clean[index] = len(info.loaded_weights)


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
