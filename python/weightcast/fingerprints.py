"""By which a worker notices that somebody else has changed the weights of its model, whatever they did it with.

A sample, not a digest of everything: it is taken in every update while the engine is paused, and whenever a status is asked
for. It has 4 KiB of each parameter, spread over all of it, so that what trains or loads a model changes it; a change of a few
numbers may go unseen. Memory that torch does not see, such as what oneDNN packs on a CPU, is not in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from .digesters import digester_of

_PIECE = 64
"""Bytes."""
_PIECES = 64
_WORD = 8


@torch.no_grad()
def fingerprint_of(model: Any) -> bytes:
    """Reads only. Waits for the devices. All memory of the model must be mapped."""
    by_device: dict[torch.device, list[torch.Tensor]] = {}
    for parameter in model.parameters():
        for tensor in _plain(parameter):
            by_device.setdefault(tensor.device, []).append(_sample(tensor))
    return b"".join(_digest(device, samples) for device, samples in by_device.items())


def _digest(device: torch.device, samples: list[torch.Tensor]) -> bytes:
    lengths = [one.numel() for one in samples]
    gathered = torch.zeros(-(-sum(lengths) // _WORD) * _WORD, dtype=torch.uint8, device=device)
    places = [place.view(one.shape) for place, one in zip(gathered[: sum(lengths)].split(lengths), samples, strict=True)]
    torch._foreach_copy_(places, samples)
    digester = digester_of(device)
    digester.add([gathered])
    return digester.words()


def _plain(tensor: Any) -> Iterator[torch.Tensor]:
    """Without what has no memory: on the meta device while somebody else's session is under way, or packed elsewhere."""
    if hasattr(tensor, "__tensor_flatten__"):
        # It consists of others: packed weights and their scales.
        for name in tensor.__tensor_flatten__()[0]:
            yield from _plain(getattr(tensor, name))
    elif not tensor.is_meta and tensor.layout == torch.strided and tensor.numel() > 0:
        yield tensor


def _sample(tensor: torch.Tensor) -> torch.Tensor:
    """Bytes of its storage between its first and last element: all, or pieces of them, one a row."""
    size = tensor.itemsize * (1 + sum((many - 1) * step for many, step in zip(tensor.shape, tensor.stride(), strict=True)))
    start = tensor.storage_offset() * tensor.itemsize
    storage = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    if size <= _PIECE * _PIECES:
        return storage.set_(tensor.untyped_storage(), start, (size,), (1,))
    step = (size - _PIECE) // (_PIECES - 1)
    return storage.set_(tensor.untyped_storage(), start, (_PIECES, _PIECE), (step, 1))
