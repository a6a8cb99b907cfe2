"""Digests by one kernel on a GPU, started through the CUDA driver that torch has loaded already.

The kernel is `native/device/cuda/kernels/digest.cu`, compiled to `digest.ptx`.
"""

from __future__ import annotations

import ctypes
import importlib.resources

import torch

from .digest import pack_words, padding_digest, signed
from .errors import WeightcastError

# What one warp does at a time.
_SLICE_BYTES = 64 << 10
_THREADS = 256
_WARPS_OF_BLOCK = _THREADS // 32
_BLOCKS_OF_PROCESSOR = 8


Piece = tuple[int, int]
"""Address and number of bytes."""


class KernelError(WeightcastError):
    """The driver does not take the kernel."""


class GpuDigester:
    """One launch a bucket, on the current stream. Keeps 64 bytes a tensor on the device."""

    def __init__(self, device: torch.device) -> None:
        """Raises KernelError. The first one on a device has the driver compile the kernel: 0.2 s."""
        self._kernel = _Kernel.on(device)
        self._device = device
        self._sums: list[torch.Tensor] = []

    def add(self, tensors: list[torch.Tensor]) -> None:
        self.add_pieces([(data.data_ptr(), data.numel()) for data in tensors])

    def add_pieces(self, pieces: list[Piece]) -> None:
        """Of the device's memory."""
        if not pieces:
            return
        count = len(pieces)
        starts: list[int] = []
        parts: list[int] = []
        slices = 0
        for address, size in pieces:
            starts.append(signed(padding_digest(size)))
            # One row, that is all of the tensor.
            parts += (address, size, 1, size, 0, size, slices)
            slices += -(-size // _SLICE_BYTES)
        # From memory that is not pinned, the copy would wait for all that the device does.
        pinned = torch.tensor(starts + parts, dtype=torch.int64, device="cpu", pin_memory=True)
        table = pinned.to(self._device, non_blocking=True)
        if slices > 0:
            stream = torch.cuda.current_stream(self._device).cuda_stream
            self._kernel.launch(table.data_ptr() + 8 * count, count, slices, table.data_ptr(), stream)
        self._sums.append(table[:count])

    def words(self) -> bytes:
        return pack_words(torch.cat(self._sums).tolist()) if self._sums else b""


class _Kernel:
    _loaded: dict[int, _Kernel] = {}

    def __init__(self, device: torch.device) -> None:
        try:
            self._driver = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise KernelError(f"the CUDA driver cannot be loaded: {error}") from error
        self._driver.cuLaunchKernel.argtypes = [
            ctypes.c_void_p,
            *[ctypes.c_uint] * 7,
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_void_p,
        ]
        processors = torch.cuda.get_device_properties(device).multi_processor_count
        self._most_blocks = processors * _BLOCKS_OF_PROCESSOR
        text = (importlib.resources.files(__package__) / "digest.ptx").read_bytes()
        module = ctypes.c_void_p()
        self._function = ctypes.c_void_p()
        self._check(self._driver.cuModuleLoadData(ctypes.byref(module), ctypes.c_char_p(text)), "load")
        name = ctypes.c_char_p(b"weightcast_digest")
        self._check(self._driver.cuModuleGetFunction(ctypes.byref(self._function), module, name), "find")

    @classmethod
    def on(cls, device: torch.device) -> _Kernel:
        index = device.index if device.index is not None else torch.cuda.current_device()
        if index not in cls._loaded:
            with torch.cuda.device(index):
                # Brings about torch's context, and makes it this thread's.
                torch.cuda.synchronize()
                cls._loaded[index] = cls(torch.device("cuda", index))
        return cls._loaded[index]

    def launch(self, parts: int, count: int, slices: int, sums: int, stream: int) -> None:
        blocks = min(-(-slices // _WARPS_OF_BLOCK), self._most_blocks)
        values = (
            ctypes.c_uint64(parts),
            ctypes.c_uint32(count),
            ctypes.c_uint64(_SLICE_BYTES),
            ctypes.c_uint64(slices),
            ctypes.c_uint64(sums),
        )
        places = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        result = self._driver.cuLaunchKernel(
            self._function, blocks, 1, 1, _THREADS, 1, 1, 0, stream, places, None
        )
        self._check(result, "start")

    def _check(self, result: int, attempt: str) -> None:
        if result == 0:
            return
        name = ctypes.c_char_p()
        self._driver.cuGetErrorName(result, ctypes.byref(name))
        words = (name.value or b"an error").decode()
        raise KernelError(f"cannot {attempt} the digest kernel: {words} ({result})")
