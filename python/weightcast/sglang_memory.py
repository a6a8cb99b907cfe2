"""The memory of a live model: who holds on to a rank's bucket, and what captured CUDA graphs read."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import torch

from .errors import BufferInUse, WeightcastError

Weights = list[tuple[str, torch.Tensor]]


class Places:
    """Where the tensors of a model lie, taken before an update: captured CUDA graphs read them there."""

    def __init__(self, model: torch.nn.Module) -> None:
        # Shares their memory, and so keeps it.
        self._held = [(layer, name, tensor.detach()) for layer, name, tensor in _tensors_of(model)]

    def put_back(self) -> None:
        """Copies what lies elsewhere now into the memory that it had. Raises WeightcastError if its form changed."""
        held, self._held = self._held, []
        with torch.no_grad():
            for layer, name, old in held:
                new = getattr(layer, name, None)
                if not isinstance(new, torch.Tensor) or new.data_ptr() == old.data_ptr():
                    continue
                if (new.dtype, new.shape, new.stride()) != (old.dtype, old.shape, old.stride()):
                    raise WeightcastError(
                        f"{name} of {type(layer).__name__} has another form after the update: {tuple(old.shape)} "
                        f"before, {tuple(new.shape)} now"
                    )
                old.copy_(new)
                if isinstance(new, torch.nn.Parameter):
                    new.data = old
                else:
                    setattr(layer, name, old)


def load_and_copy_what_is_held(
    model: torch.nn.Module, weights: Weights, load: Callable[[Iterator[tuple[str, torch.Tensor]]], object]
) -> None:
    """Whatever of `weights` the model still holds after `load` is replaced by a copy. Raises BufferInUse."""
    if not weights:
        return
    storage = weights[0][1].untyped_storage()
    before = _references_to(storage)
    # Tensors of their own: whoever holds on to one holds one reference more.
    load((name, tensor.detach()) for name, tensor in weights)
    if _references_to(storage) <= before:
        return
    _copy_what_lies_in(storage, model)
    gc.collect()
    if _references_to(storage) > before:
        raise BufferInUse(
            f"{type(model).__name__} holds on to the tensors of a bucket after it has loaded them; load_weights must "
            "copy what it is given"
        )


def _copy_what_lies_in(storage: torch.UntypedStorage, model: torch.nn.Module) -> None:
    for layer, name, tensor in _tensors_of(model):
        if tensor.untyped_storage().data_ptr() != storage.data_ptr():
            continue
        if isinstance(tensor, torch.nn.Parameter):
            tensor.data = tensor.data.clone()
        else:
            setattr(layer, name, tensor.clone())


def _references_to(storage: torch.UntypedStorage) -> int:
    return torch._C._storage_Use_Count(storage._cdata)


def _tensors_of(model: torch.nn.Module) -> Iterator[tuple[Any, str, torch.Tensor]]:
    """Parameters, buffers, and what layers keep in attributes."""
    for layer in model.modules():
        for tensors in (layer._parameters, layer._buffers, vars(layer)):
            for name, tensor in list(tensors.items()):
                if isinstance(tensor, torch.Tensor):
                    yield layer, name, tensor
