"""Tensors of the trainer into the memory of a version."""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Iterable, Optional, Sequence

from .publisher_cuda import CudaCopier
from .publisher_files import VersionFiles, address_of
from .publisher_layout import ITEM_BYTES
from .publisher_memory import copy_on_device
from .publisher_parts import Part, runs
from .tensor_files import Source

#: What is larger is copied by several threads, in pieces of at least so many bytes.
_LARGE = 1 << 22
_MOST_THREADS = 8


class Copier:
    """Copies parts of tensors, those of a GPU by its own stream (publisher_cuda.py)."""

    def __init__(self, threads: Optional[int] = None) -> None:
        """`threads`: that copy a large piece together. Default: as many as there are cores for this process, at most 8."""
        self._threads = threads or min(_MOST_THREADS, len(os.sched_getaffinity(0)))
        self._pool: Optional[ThreadPoolExecutor] = None
        self._cuda: Optional[CudaCopier] = None
        self._files: VersionFiles

    def begin(self, files: VersionFiles) -> None:
        """What is written from here on lies in these files."""
        if self._cuda is not None:
            self._cuda.pin(files)
        self._files = files

    def copy(self, tensor: Any, source: Source, memory: Any, shape: Sequence[int], part: Part) -> None:
        """Writes a part of a tensor, row-major, to where it lies in the whole tensor of `shape`, whose bytes `memory` is: a
        memoryview, or a tensor of a GPU; of a GPU it returns before the bytes have arrived.

        Raises `ValueError` if the data has another size than dtype and shape make.
        """
        if not isinstance(memory, memoryview):
            copy_on_device(tensor, source, memory, shape, part)
            return
        device = getattr(tensor, "device", None)
        starts, run = runs(shape, part)
        if part.elements == 0:
            return
        item = ITEM_BYTES[source.dtype]
        if getattr(device, "type", None) == "cuda" and run == part.elements and self._files.is_whole:
            if self._cuda is None:
                self._cuda = CudaCopier()
                self._cuda.pin(self._files)
            begin = next(starts) * item
            self._cuda.copy(tensor, memory[begin : begin + run * item])
        else:
            self._copy_part(source, memory, part, starts, run * item)

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
        if self._pool is not None:
            self._pool.shutdown()
        self._pool = None

    def _copy_part(
        self, source: Source, memory: memoryview, part: Part, starts: Iterable[int], length: int
    ) -> None:
        """`starts`: of its contiguous runs, in elements of the whole tensor; `length`: of each, in bytes."""
        item = ITEM_BYTES[source.dtype]
        data = source.read()
        if data.nbytes != part.elements * item:
            raise ValueError(
                f"{source.dtype} {list(part.lengths)} is {part.elements * item} bytes, the data has {data.nbytes}"
            )
        if data.readonly:
            for number, start in enumerate(starts):
                piece = data[number * length : (number + 1) * length]
                memory[start * item : start * item + length] = piece
            return
        target, origin = address_of(memory), address_of(data)
        for number, start in enumerate(starts):
            self._copy_run(target + start * item, origin + number * length, length)

    def _copy_run(self, target: int, origin: int, length: int) -> None:
        """Addresses, and bytes. Other threads of Python run meanwhile."""
        if length < _LARGE or self._threads == 1:
            ctypes.memmove(target, origin, length)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, "weightcast-copy")
        step = max(_LARGE, -(-length // self._threads))
        pieces = [
            self._pool.submit(ctypes.memmove, target + begin, origin + begin, min(step, length - begin))
            for begin in range(0, length, step)
        ]
        for piece in pieces:
            piece.result()
