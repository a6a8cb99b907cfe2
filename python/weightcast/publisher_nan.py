"""Whether a tensor has a NaN."""

from __future__ import annotations

from typing import Any

from .client_errors import CheckpointError, UsageError
from .tensor_files import Source

#: Of each dtype with NaNs: the integer of its width, the bits of exponent and mantissa, and which of them mean infinity: a
#: NaN is what is above. F8_E4M3 has no infinity, and one NaN.
_NANS = {
    "F64": ("<u8", 0x7FFF_FFFF_FFFF_FFFF, 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7FFF_FFFF, 0x7F80_0000),
    "C64": ("<u4", 0x7FFF_FFFF, 0x7F80_0000),
    "BF16": ("<u2", 0x7FFF, 0x7F80),
    "F16": ("<u2", 0x7FFF, 0x7C00),
    "F8_E5M2": ("u1", 0x7F, 0x7C),
    "F8_E4M3": ("u1", 0x7F, 0x7E),
}


def refuse_nan_in(name: str, tensor: Any, source: Source) -> None:
    """Raises `CheckpointError` if it has one. Other dtypes have none, or are not looked at (F8_E8M0 and the fnuz kinds)."""
    if source.dtype not in _NANS:
        return
    if hasattr(tensor, "data_ptr"):
        # Also on a GPU, of which only the answer is copied.
        values = tensor.detach()
        has_nan = bool((values.float() if values.element_size() == 1 else values).isnan().any())
    else:
        has_nan = _in_bytes(source)
    if has_nan:
        raise CheckpointError(f"tensor {name} has a NaN")


def _in_bytes(source: Source) -> bool:
    try:
        import numpy
    except ImportError as error:
        raise UsageError("refuse_nan needs numpy, or tensors of torch") from error
    kind, bits, infinity = _NANS[source.dtype]
    words = numpy.frombuffer(source.read(), dtype=kind)
    return bool(((words & words.dtype.type(bits)) > words.dtype.type(infinity)).any())
