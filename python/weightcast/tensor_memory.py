"""The memory in which the tensors of a model lie, as bytes, whatever their form."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch


def is_fake(tensor: torch.Tensor) -> bool:
    return tensor.is_meta or _is_of_subclasses(type(tensor))


@functools.lru_cache(maxsize=1_024)
def consists_of_others(kind: type) -> bool:
    """Tensors of such a class have packed weights and their scales in tensors of their own, named by `__tensor_flatten__`."""
    return hasattr(kind, "__tensor_flatten__")


def has_memory(tensor: torch.Tensor) -> bool:
    """Of its own, which torch sees."""
    if is_fake(tensor) or consists_of_others(type(tensor)):
        return False
    return tensor.layout == torch.strided and tensor.numel() > 0


def span_bytes(tensor: torch.Tensor) -> int:
    """From a tensor's first element to its last."""
    return _elements(tensor.shape, tensor.stride()) * tensor.itemsize


def bytes_of(tensor: torch.Tensor, shape: Sequence[int], strides: Sequence[int] = (1,)) -> torch.Tensor:
    """Bytes of its storage from its first element on, of that shape and with those strides, uint8."""
    empty = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    start = tensor.storage_offset() * tensor.itemsize
    return empty.set_(tensor.untyped_storage(), start, tuple(shape), tuple(strides))


@functools.lru_cache(maxsize=1_024)
def _is_of_subclasses(kind: type) -> bool:
    return kind.__module__.startswith("torch._subclasses")


@functools.lru_cache(4_096)
def _elements(shape: torch.Size, strides: tuple[int, ...]) -> int:
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
