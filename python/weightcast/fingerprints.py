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
from .tensor_memory import bytes_of, consists_of_others, has_memory, span_bytes

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
    if consists_of_others(type(tensor)):
        for name in tensor.__tensor_flatten__()[0]:
            yield from _plain(getattr(tensor, name))
    elif has_memory(tensor):
        yield tensor


def _sample(tensor: torch.Tensor) -> torch.Tensor:
    """Bytes of its storage between its first and last element: all, or pieces of them, one a row."""
    size = span_bytes(tensor)
    if size <= _PIECE * _PIECES:
        return bytes_of(tensor, (size,))
    return bytes_of(tensor, (_PIECES, _PIECE), ((size - _PIECE) // (_PIECES - 1), 1))
