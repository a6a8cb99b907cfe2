"""Tensors of the trainer into the memory of a version."""

from __future__ import annotations

import ctypes
import sys
from typing import Sequence

from .publisher_files import address_of
from .publisher_layout import ITEM_BYTES
from .publisher_parts import Part, runs
from .tensor_files import Source

#: From here on torch's threads copy faster than one thread does.
_LARGE = 1 << 22


def copy_part(source: Source, memory: memoryview, shape: Sequence[int], part: Part) -> None:
    """Writes a part of a tensor, row-major, to where it lies in the whole tensor of `shape`, whose bytes `memory` is.

    Raises `ValueError` if the data has another size than dtype and shape make.
    """
    starts, run = runs(shape, part)
    item = ITEM_BYTES[source.dtype]
    length = run * item
    if part.elements == 0:
        return
    data = source.read()
    if data.nbytes != part.elements * item:
        raise ValueError(
            f"{source.dtype} {list(part.lengths)} is {part.elements * item} bytes, the data has {data.nbytes}"
        )
    if length == data.nbytes:
        (start,) = starts
        copy_bytes(data, memory[start * item : start * item + length])
        return
    for number, start in enumerate(starts):
        piece = data[number * length : (number + 1) * length]
        copy_bytes(piece, memory[start * item : start * item + length])


def copy_bytes(data: memoryview, memory: memoryview) -> None:
    """Both of one length. Other threads of Python run meanwhile, unless `data` may only be read."""
    torch = sys.modules.get("torch")
    if data.readonly:
        memory[:] = data
    elif torch is not None and data.nbytes >= _LARGE:
        torch.frombuffer(memory, dtype=torch.uint8).copy_(torch.frombuffer(data, dtype=torch.uint8))
    else:
        ctypes.memmove(address_of(memory), address_of(data), data.nbytes)
