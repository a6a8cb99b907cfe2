"""Tensors of a CUDA device into shared memory, by a double buffer on a stream of their own.

A tensor is first copied within its device, which takes a fortieth of the time of the way to the host, so that what produces
tensors may overwrite it and go on; the copy to the host runs meanwhile, straight into shared memory that is pinned once.
"""

from __future__ import annotations

from typing import Any, Dict, List

from .client_errors import HostMemoryError
from .publisher_files import VersionFiles, address_of

#: Of each of the two buffers. Pieces of 32 MiB and more reach the speed of PCIe 5 x16.
_BUFFER_BYTES = 64 << 20


class _Device:
    """The stream and the buffers of one device."""

    def __init__(self, device: Any) -> None:
        import torch

        self.stream = torch.cuda.Stream(device)
        self._buffers = [torch.empty(_BUFFER_BYTES, dtype=torch.uint8, device=device) for _ in range(2)]
        #: When the copy from each buffer to the host has ended.
        self._free = [torch.cuda.Event() for _ in range(2)]
        self._next = 0

    def copy(self, source: Any, target: Any) -> None:
        """Both of bytes, in one piece; `target` is pinned memory of the host."""
        import torch

        current = torch.cuda.current_stream(source.device)
        for begin in range(0, source.numel(), _BUFFER_BYTES):
            piece = source[begin : begin + _BUFFER_BYTES]
            buffer = self._buffers[self._next][: piece.numel()]
            free = self._free[self._next]
            self._next = 1 - self._next
            # Ordered on the device: the host waits for none of it. An event that was never recorded has passed.
            current.wait_event(free)
            buffer.copy_(piece, non_blocking=True)
            self.stream.wait_stream(current)
            with torch.cuda.stream(self.stream):
                target[begin : begin + piece.numel()].copy_(buffer, non_blocking=True)
                free.record(self.stream)


class CudaCopier:
    def __init__(self) -> None:
        self._devices: Dict[Any, _Device] = {}
        #: Addresses of what is pinned, by the numbers of its files.
        self._pinned: Dict[int, List[int]] = {}

    def pin(self, files: VersionFiles) -> None:
        """Pins the memory of files once; of those that are not whole yet nothing. Raises `HostMemoryError`."""
        if not files.is_whole or files.number in self._pinned:
            return
        addresses: List[int] = []
        try:
            files.each_mapping(lambda memory: addresses.append(_register(memory)))
        except BaseException:
            _unregister(addresses)
            raise
        self._pinned[files.number] = addresses

    def unpin(self, number: int) -> None:
        """Before the files of that number are unmapped."""
        addresses = self._pinned.pop(number, [])
        if addresses:
            self.finish()
        _unregister(addresses)

    def copy(self, tensor: Any, memory: memoryview) -> None:
        """Begins to copy a whole tensor. What comes later on the current stream may overwrite it."""
        import torch

        source = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        if source.numel() == 0:
            return
        device = self._devices.get(source.device)
        if device is None:
            device = self._devices[source.device] = _Device(source.device)
        with torch.cuda.device(source.device):
            device.copy(source, torch.frombuffer(memory, dtype=torch.uint8))

    def finish(self) -> None:
        for device in self._devices.values():
            device.stream.synchronize()

    def close(self) -> None:
        """May be called twice."""
        self.finish()
        for number in [*self._pinned]:
            self.unpin(number)
        self._devices.clear()


def _register(memory: memoryview) -> int:
    """Its address."""
    import torch

    address = address_of(memory)
    # 1: for all contexts of this process (cudaHostRegisterPortable).
    result = torch.cuda.cudart().cudaHostRegister(address, memory.nbytes, 1)
    if int(result) != 0:
        raise HostMemoryError(f"{memory.nbytes} bytes of shared memory cannot be pinned ({result}); see ulimit -l")
    return address


def _unregister(addresses: List[int]) -> None:
    import torch

    for address in addresses:
        torch.cuda.cudart().cudaHostUnregister(address)
