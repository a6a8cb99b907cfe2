"""Tensors of this process into a safetensors file in shared memory, where ranks use them without a copy.

No import of numpy or torch: a tensor is known by what it can do.
"""

from __future__ import annotations

import ctypes
import json
import operator
import os
import re
import secrets
from typing import Any, Callable, List, Mapping, NamedTuple, Optional, Tuple

from .client_errors import HostMemoryError, UsageError

#: By the names of numpy and torch, those of the safetensors format.
_DTYPES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e8m0fnu": "F8_E8M0",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "int16": "I16",
    "uint16": "U16",
    "float16": "F16",
    "bfloat16": "BF16",
    "int32": "I32",
    "uint32": "U32",
    "float32": "F32",
    "complex64": "C64",
    "float64": "F64",
    "int64": "I64",
    "uint64": "U64",
}
_TORCH_NAMES = {safetensors: name for name, safetensors in _DTYPES.items()}
#: Halves of characters, which no file can have.
_SURROGATES = re.compile("[\ud800-\udfff]")
#: Of the first tensor in the file.
_ALIGNMENT = 256
#: One write takes at most 2 GiB.
_PIECE = 1 << 30


class Source(NamedTuple):
    """A tensor, before its bytes are asked for: those of a GPU are copied one after the other."""

    #: Of the safetensors format.
    dtype: str
    shape: List[int]
    nbytes: int
    read: Callable[[], memoryview]


def write_tensors(directory: str, tensors: Mapping[str, Any]) -> str:
    """Writes a new file, which only this user may read, and returns its path. On an error nothing is left behind.

    Raises `UsageError` that names the tensor, `HostMemoryError` when shared memory is full, and `FileNotFoundError` or
    `PermissionError` for a directory that is gone, or not this user's.
    """
    if not isinstance(tensors, Mapping):
        raise UsageError(f"tensors is a {type(tensors).__name__}; give a dict of them by name, such as model.state_dict()")
    for name in tensors:
        check_name(name)
    sources = {name: with_name(name, lambda tensor=tensor: source_of(tensor)) for name, tensor in tensors.items()}
    if not sources:
        raise UsageError("there are no tensors to register")
    header = _header(sources)
    total = len(header) + sum(source.nbytes for source in sources.values())
    path = os.path.join(directory, f"{os.getpid()}-{secrets.token_hex(8)}.safetensors")
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            # Now, because a write into full memory would leave half a file.
            os.posix_fallocate(file, 0, total)
            _write_all(file, memoryview(header))
            for name, source in sources.items():
                _write_all(file, with_name(name, source.read))
        finally:
            os.close(file)
    except OSError as error:
        os.unlink(path)
        raise HostMemoryError(f"shared memory cannot take {total} bytes ({directory}): {error.strerror}") from error
    except BaseException:
        os.unlink(path)
        raise
    return path


def _header(sources: Mapping[str, Source]) -> bytes:
    entries = {}
    offset = 0
    for name, (dtype, shape, nbytes, _) in sources.items():
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + nbytes]}
        offset += nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _write_all(file: int, data: memoryview) -> None:
    done = 0
    while done < data.nbytes:
        done += os.write(file, data[done : done + _PIECE])


def check_name(name: Any) -> None:
    """Raises `UsageError` for what cannot be the name of a tensor."""
    if not isinstance(name, str) or name in ("", "__metadata__") or _SURROGATES.search(name):
        raise UsageError(f"{ascii(name)[:200]} is no name of a tensor")


def with_name(name: str, work: Callable[[], Any]) -> Any:
    """What `work` returns; its error with the tensor's name."""
    try:
        return work()
    except KeyError as error:
        raise UsageError(f"tensor {name}: the safetensors format has no dtype {error}") from error
    except (TypeError, ValueError, RuntimeError, AttributeError, ArithmeticError) as error:
        raise UsageError(f"tensor {name}: {' '.join(str(error).split())}") from error


def source_of(tensor: Any) -> Source:
    """Raises what `with_name` turns into a `UsageError`."""
    if isinstance(tensor, tuple):
        if len(tensor) != 3 or not isinstance(tensor[0], str):
            raise ValueError("a tuple is (dtype, shape, bytes)")
        dtype, shape, data = tensor
        view = memoryview(data).cast("B")
        return Source(dtype, [_size(size) for size in shape], view.nbytes, lambda: view)
    if hasattr(tensor, "data_ptr") and hasattr(tensor, "layout"):
        _check_dense(tensor)
        nbytes = tensor.numel() * tensor.element_size()
        dtype, shape = _form_of_torch(str(tensor.dtype).rpartition(".")[2], list(tensor.shape))
        return Source(dtype, shape, nbytes, lambda: _bytes_of_torch(tensor))
    if hasattr(tensor, "__array_interface__"):
        if tensor.dtype.byteorder == ">":
            raise ValueError("it is big-endian")
        if hasattr(tensor, "mask") and hasattr(tensor, "fill_value"):
            raise ValueError("it is masked; give its filled()")
        shape = list(tensor.shape)
        return Source(_DTYPES[tensor.dtype.name], shape, tensor.nbytes, lambda: _bytes_of_numpy(tensor))
    raise TypeError(f"it is a {type(tensor).__name__}; give a tensor of torch or numpy, or (dtype, shape, bytes)")


def _size(size: Any) -> int:
    value = operator.index(size)
    if value < 0:
        raise ValueError(f"its shape has {value}")
    return value


def _check_dense(tensor: Any) -> None:
    """Raises `ValueError` for a tensor of torch whose elements do not lie in memory one by one."""
    if getattr(tensor, "is_nested", False):
        raise ValueError("it is nested; give its tensors one by one")
    if str(tensor.layout) != "torch.strided":
        raise ValueError(f"its layout is {tensor.layout}; give it dense (to_dense())")
    if tensor.device.type == "meta":
        raise ValueError("it is on the device meta, and has no data")
    if tensor.numel() > 0 and tensor.data_ptr() == 0:
        raise ValueError(f"it is a {type(tensor).__name__} without memory of its own; give the tensors that it consists of")
    if tensor.is_conj() or tensor.is_neg():
        raise ValueError("it is conjugated or negated, and its memory is not; give tensor.resolve_conj().resolve_neg()")


def _form_of_torch(dtype: str, shape: List[int]) -> Tuple[str, List[int]]:
    """As the safetensors format has it, which counts the four-bit elements that torch packs in pairs."""
    if dtype != "float4_e2m1fn_x2":
        return _DTYPES[dtype], shape
    if not shape:
        raise ValueError("a pair of four-bit elements needs a dimension")
    return "F4", [*shape[:-1], 2 * shape[-1]]


def torch_name(dtype: str) -> Optional[str]:
    """What torch calls a dtype of the safetensors format; None if it has none."""
    return _TORCH_NAMES.get(dtype)


def _bytes_of_torch(tensor: Any) -> memoryview:
    tensor = tensor.detach()
    if tensor.device.type != "cpu":
        tensor = tensor.cpu()
    tensor = tensor.contiguous()
    count = tensor.numel() * tensor.element_size()
    if count == 0:
        return memoryview(b"")
    data = (ctypes.c_ubyte * count).from_address(tensor.data_ptr())
    # It holds the memory for as long as the view lives.
    data._tensor = tensor  # type: ignore[attr-defined]
    return memoryview(data).cast("B")


def _bytes_of_numpy(array: Any) -> memoryview:
    if array.size == 0:
        return memoryview(b"")
    flat = array.reshape(-1) if array.flags.c_contiguous else array.flatten()
    return memoryview(flat.view("uint8")).cast("B")


def unlink(path: str) -> None:
    """Also if it is gone already."""
    try:
        os.unlink(path)
    except OSError:
        pass
