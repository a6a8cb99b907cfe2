"""torch's dtypes by the names that safetensors gives them."""

from __future__ import annotations

import math

import torch

from .errors import ProtocolError
from .messages import Tensor

# From safetensors' name to torch's. A torch that is too old for one lacks it.
_NAMES = {
    "BOOL": "bool",
    "F4": "float4_e2m1fn_x2",
    "U8": "uint8",
    "I8": "int8",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "C64": "complex64",
    "F64": "float64",
    "I64": "int64",
    "U64": "uint64",
}
_TYPES = {name: getattr(torch, theirs) for name, theirs in _NAMES.items() if hasattr(torch, theirs)}


def view_of(buffer: torch.Tensor, tensor: Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The tensor, or the part of it that is sent, where it lies in a buffer of bytes: its bytes (uint8, one dimension), and
    itself.

    Raises ProtocolError, naming the tensor, if torch has no such dtype or the buffer ends before the tensor.
    """
    dtype = _TYPES.get(tensor.dtype)
    if dtype is None:
        raise ProtocolError(f"tensor {tensor.name!r}: torch {torch.__version__} has no dtype {tensor.dtype}")
    shape = tensor.shape
    if tensor.part is not None:
        dim, _, length = tensor.part
        shape = (*shape[:dim], length, *shape[dim + 1 :])
    if tensor.dtype == "F4":
        if tensor.part is not None:
            raise ProtocolError(f"tensor {tensor.name!r}: a part of an F4 tensor")
        # torch keeps two of them in one element, so its last dimension is half as long.
        if not shape or shape[-1] % 2 != 0:
            raise ProtocolError(f"tensor {tensor.name!r}: torch has no F4 of shape {list(shape)}")
        shape = (*shape[:-1], shape[-1] // 2)
    size = math.prod(shape) * dtype.itemsize
    end = tensor.offset + size
    if size > 0 and end > buffer.numel():
        raise ProtocolError(
            f"tensor {tensor.name!r} reaches to byte {end} of a buffer of {buffer.numel()} bytes"
        )
    if tensor.offset % 8 != 0:
        raise ProtocolError(f"tensor {tensor.name!r} begins at byte {tensor.offset}, which is not aligned")
    data = buffer[tensor.offset : end] if size > 0 else buffer[:0]
    return data, data.view(dtype).view(shape)
