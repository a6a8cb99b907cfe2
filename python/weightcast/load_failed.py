"""Which tensor a model was loading when it failed: loaders' own errors seldom say."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from types import FrameType, TracebackType

import torch

from .errors import LoadFailed

_WORDS_AT_MOST = 500


def load_failed(error: Exception, weights: Sequence[tuple[str, torch.Tensor]]) -> LoadFailed | None:
    """The same error, with the tensor that the innermost function which had one of these had. None if none did."""
    name, tensor = _at_fault(error.__traceback__, weights) or (None, None)
    if tensor is None:
        return None
    words = " ".join(str(error).split())[:_WORDS_AT_MOST]
    what = f"{type(error).__name__}: {words}" if words else type(error).__name__
    form = f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
    return LoadFailed(f"tensor {name!r}, {form}: {what}")


def _at_fault(
    traceback: TracebackType | None, weights: Sequence[tuple[str, torch.Tensor]]
) -> tuple[str, torch.Tensor] | None:
    frames = []
    while traceback is not None:
        frames.append(traceback.tb_frame)
        traceback = traceback.tb_next
    for frame in reversed(frames):
        for address in _addresses_in(frame):
            for name, tensor in weights:
                if tensor.data_ptr() <= address < tensor.data_ptr() + tensor.nbytes:
                    return name, tensor
    return None


def _addresses_in(frame: FrameType) -> list[int]:
    """Of the tensors that a function's variables have."""
    if not frame.f_code.co_flags & inspect.CO_OPTIMIZED:
        return []
    variables = frame.f_locals
    tensors = [value for value in variables.values() if isinstance(value, torch.Tensor)]
    if isinstance(variables, dict):
        # A copy, before Python 3.13: it would keep tensors of the link buffer for as long as the error is in hand.
        variables.clear()
    return [_address_of(tensor) for tensor in tensors if tensor.numel() > 0]


def _address_of(tensor: torch.Tensor) -> int:
    """-1 for one of torch's own kinds, without memory of its own."""
    try:
        return tensor.data_ptr()
    except RuntimeError:
        return -1
