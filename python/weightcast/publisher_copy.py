"""Tensors of the trainer into the memory of a version."""

from __future__ import annotations

import ctypes
import sys
from typing import Any, Optional, Sequence

from .publisher_cuda import CudaCopier
from .publisher_files import VersionFiles, address_of
from .publisher_layout import ITEM_BYTES
from .publisher_parts import Part, runs
from .tensor_files import Source

#: From here on torch's threads copy faster than one thread does.
_LARGE = 1 << 22


class Copier:
    """Copies parts of tensors, those of a GPU by its own stream (publisher_cuda.py)."""

    def __init__(self) -> None:
        self._cuda: Optional[CudaCopier] = None
        self._files: VersionFiles

    def begin(self, files: VersionFiles) -> None:
        """What is written from here on lies in these files."""
        if self._cuda is not None:
            self._cuda.pin(files)
        self._files = files

    def copy(self, tensor: Any, source: Source, memory: memoryview, shape: Sequence[int], part: Part) -> None:
        """As `copy_part`; of a GPU it returns before the bytes have arrived."""
        device = getattr(tensor, "device", None)
        if getattr(device, "type", None) == "cuda" and part.lengths == tuple(shape) and self._files.is_whole:
            if self._cuda is None:
                self._cuda = CudaCopier()
                self._cuda.pin(self._files)
            self._cuda.copy(tensor, memory)
        else:
            copy_part(source, memory, shape, part)

    def forget(self, number: int) -> None:
        """The files of that number are about to be unmapped."""
        if self._cuda is not None:
            self._cuda.unpin(number)

    def finish(self) -> None:
        """Returns when all bytes have arrived."""
        if self._cuda is not None:
            self._cuda.finish()

    def close(self) -> None:
        """May be called twice."""
        if self._cuda is not None:
            self._cuda.close()
        self._cuda = None


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
