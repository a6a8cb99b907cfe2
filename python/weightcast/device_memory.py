"""Opens the rank's link buffer in this process: memory of the same GPU, or of a host device in /dev/shm."""

from __future__ import annotations

import gc
import mmap
import os
import re

import torch
from torch.multiprocessing.reductions import StorageWeakRef, rebuild_cuda_tensor

from .errors import BufferInUse, ProtocolError

_HOST_MEMORY = re.compile(rb"/dev/shm/weightcast-device-[A-Za-z0-9_.-]+/allocation-\d+")


class LinkBuffer:
    """A rank's memory as a tensor of bytes. The rank keeps it until the worker says that it is dropped."""

    def __init__(self, handle: bytes, size: int, device: torch.device) -> None:
        self._device = device
        self._bytes: torch.Tensor | None = (
            _open_cuda(handle, size, device) if device.type == "cuda" else _open_host(handle, size)
        )

    @property
    def bytes(self) -> torch.Tensor:
        """uint8, one dimension."""
        assert self._bytes is not None, "the link buffer is dropped"
        return self._bytes

    def drop(self) -> None:
        """Lets go of the memory. Raises BufferInUse if anyone else in this process does not. May be called twice."""
        if self._bytes is None:
            return
        storage = StorageWeakRef(self._bytes.untyped_storage())
        self._bytes = None
        if not storage.expired():
            # Tensors that are only held in a circle keep the memory open. Looking for them takes an engine's process
            # tens of milliseconds.
            gc.collect()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            torch.cuda.ipc_collect()
            # What the digests were computed in is the engine's again.
            torch.cuda.empty_cache()
        if not storage.expired():
            raise BufferInUse(
                "the model holds on to tensors of the link buffer after they were loaded; "
                "load_weights must copy what it is given"
            )


def _open_cuda(handle: bytes, size: int, device: torch.device) -> torch.Tensor:
    if len(handle) != 64:
        raise ProtocolError(f"a CUDA IPC handle has 64 bytes, this one {len(handle)}")
    # The fifteen arguments of torch's own pickles of CUDA tensors. No reference counter and no event: the rank keeps
    # the memory until we answer, and announces nothing before it is there.
    return rebuild_cuda_tensor(
        torch.Tensor,
        (size,),
        (1,),
        0,
        torch.storage.TypedStorage,
        torch.uint8,
        device.index,
        handle,
        size,
        0,
        False,
        b"",
        0,
        b"",
        False,
    )


def _open_host(handle: bytes, size: int) -> torch.Tensor:
    if _HOST_MEMORY.fullmatch(handle) is None:
        raise ProtocolError("the handle is not one of memory of a host device; is the rank on a GPU?")
    path = handle.decode()
    descriptor = os.open(path, os.O_RDWR)
    try:
        actual = os.fstat(descriptor).st_size
        if actual < size:
            raise ProtocolError(f"{path} has {actual} bytes, not the {size} that were announced")
        if size == 0:
            return torch.empty(0, dtype=torch.uint8)
        # Writable, as memory of a GPU is: torch has no tensors that are not.
        return torch.frombuffer(mmap.mmap(descriptor, size), dtype=torch.uint8)
    finally:
        os.close(descriptor)
