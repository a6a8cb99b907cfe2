"""Memory of a device that other processes open: of a GPU, or of a host device, which emulates one in /dev/shm."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import secrets
from typing import Any, Callable, NamedTuple, Sequence, Union

from .client_errors import DeviceMemoryError, UsageError
from .publisher_layout import ITEM_BYTES
from .publisher_parts import Part
from .tensor_files import Source

_HOST_DEVICE = re.compile(r"HOST-[A-Za-z0-9_.-]{1,80}")
#: Numbers of allocations that no host device reaches itself.
_FIRST_NUMBER = 1 << 40


class Allocation(NamedTuple):
    #: What ranks open it with.
    handle: bytes
    #: Its bytes: a memoryview, or of a GPU a tensor of torch, uint8.
    memory: Any
    nbytes: int
    free: Callable[[], None]


def device_memory(chosen: Union[bool, int, str]) -> Union["CudaMemory", "HostMemory"]:
    """That of the current device of torch (True), of the one with an index, or of a host device (`HOST-…`). Raises `UsageError`."""
    if isinstance(chosen, str) and _HOST_DEVICE.fullmatch(chosen):
        return HostMemory(chosen)
    if chosen is True or (type(chosen) is int and chosen >= 0):
        return CudaMemory(None if chosen is True else chosen)
    raise UsageError(f"on_device is {chosen!r}; it is True, the index of a GPU in this process, or the UUID of a host device")


class HostMemory:
    """For engines without a GPU, and tests. The device is there as long as a rank or an engine worker has it open."""

    def __init__(self, uuid: str) -> None:
        self.uuid = uuid
        self._directory = f"/dev/shm/weightcast-device-{uuid[len('HOST-'):]}"

    def allocate(self, nbytes: int) -> Allocation:
        """Raises `DeviceMemoryError`."""
        path = os.path.join(self._directory, f"allocation-{_FIRST_NUMBER + secrets.randbelow(_FIRST_NUMBER)}")
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(descriptor, nbytes)
                memory = mmap.mmap(descriptor, nbytes)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise DeviceMemoryError(
                f"device {self.uuid} has no {nbytes} bytes ({error.strerror}): it is there while an instance has a rank on it"
            ) from error

        def free() -> None:
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass  # The device has ended.
            try:
                memory.close()
            except BufferError:
                pass  # Somebody holds a view of it.

        return Allocation(path.encode(), memoryview(memory), nbytes, free)

    def finish(self) -> None:
        pass


class CudaMemory:
    """Of one GPU, beside what torch's allocator has: that may be of pieces which no other process can open."""

    def __init__(self, index: Union[int, None]) -> None:
        try:
            import torch
        except ImportError as error:
            raise UsageError("on_device needs torch, and tensors of a GPU") from error
        if not torch.cuda.is_available():
            raise UsageError("on_device: torch has no GPU here")
        if index is not None and index >= torch.cuda.device_count():
            raise UsageError(f"on_device is {index}; torch has {torch.cuda.device_count()} GPUs here")
        self._device = torch.device("cuda", torch.cuda.current_device() if index is None else index)
        self.uuid = f"GPU-{torch.cuda.get_device_properties(self._device).uuid}"
        self._driver = ctypes.CDLL("libcuda.so.1")

    def allocate(self, nbytes: int) -> Allocation:
        """Raises `DeviceMemoryError`."""
        import torch

        with torch.cuda.device(self._device):
            torch.cuda.synchronize()  # Makes the context of torch the one of this thread.
            pointer = ctypes.c_uint64()
            self._check(self._driver.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(nbytes)), f"{nbytes} bytes")
            handle = (ctypes.c_ubyte * 64)()
            try:
                self._check(self._driver.cuIpcGetMemHandle(handle, pointer), "memory for other processes")
            except BaseException:
                self._driver.cuMemFree_v2(pointer)
                raise

        def free() -> None:
            with torch.cuda.device(self._device):
                torch.cuda.synchronize()
                self._driver.cuMemFree_v2(pointer)

        memory = torch.as_tensor(_Interface(pointer.value, nbytes), device=self._device)
        return Allocation(bytes(handle), memory, nbytes, free)

    def finish(self) -> None:
        """Returns when all that was copied is there."""
        import torch

        torch.cuda.synchronize(self._device)

    def _check(self, result: int, what: str) -> None:
        if result != 0:
            # 2: CUDA_ERROR_OUT_OF_MEMORY.
            why = "it is full" if result == 2 else f"error {result} of the CUDA driver"
            raise DeviceMemoryError(f"device {self.uuid} does not give {what}: {why}; publish without on_device")


class _Interface:
    """Memory of a GPU as torch takes it, without a copy."""

    def __init__(self, address: int, nbytes: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (nbytes,),
            "typestr": "|u1",
            "data": (address, False),
            "version": 3,
        }


def copy_on_device(tensor: Any, source: Source, memory: Any, shape: Sequence[int], part: Part) -> None:
    """Into a part of a tensor, whose bytes are the tensor `memory` of a GPU: from there, from another GPU or from the host.
    Ordered on the current stream. Raises `ValueError` if the data has another size than dtype and shape make."""
    import torch

    if part.elements == 0:
        return
    item = ITEM_BYTES[source.dtype]
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[item]
    if hasattr(tensor, "data_ptr"):
        given = tensor.detach().contiguous().reshape(-1).view(whole)
    else:
        data = source.read()
        if data.nbytes != part.elements * item:
            raise ValueError(f"{source.dtype} {list(part.lengths)} is {part.elements * item} bytes, the data has {data.nbytes}")
        given = torch.frombuffer(bytearray(data), dtype=whole)
    box = tuple(slice(start, start + length) for start, length in zip(part.starts, part.lengths))
    with torch.cuda.device(memory.device):
        target = memory.view(whole).view(tuple(shape))[box]
        target.copy_(given.view(tuple(part.lengths)), non_blocking=given.device.type == "cuda")
