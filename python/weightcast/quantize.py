"""BF16, FP16 or FP32 matrices to FP8 by blocks, the form that DeepSeek's checkpoints have and that vLLM and SGLang load
(`quantization_config: {"quant_method": "fp8", "weight_block_size": [128, 128]}`).

Of a matrix of shape [..., rows, columns] each block of 128 x 128, smaller at the far edges, becomes

    scale = max(max(|w|) / 448, 2**-126)             in FP32; 1 for a block of zeros
    q     = to_e4m3(clamp(w / scale, -448, 448))     w and the quotient in FP32; rounded to nearest, ties to even

so that w is about q * scale. Each step is one rounding of IEEE 754, without a fused operation or a sum, and a maximum has no
order: the CPU and any GPU give the same bits. 448 is the largest number of E4M3; below 2**-126 a scale would be subnormal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterator, NamedTuple, Optional, Tuple

if TYPE_CHECKING:
    import torch

__all__ = ["BLOCK", "SCHEMES", "Shard", "fp8_block", "quantized", "scale_name"]

#: Rows and columns of a block.
BLOCK = 128
#: What `quantize=` may be.
SCHEMES = ("fp8_block",)

_LARGEST = 448.0
_SMALLEST_SCALE = 2.0**-126
#: Elements that are FP32 at a time, by the kind of device.
_STRIP = {"cpu": 1 << 20, "cuda": 1 << 24}


class Shard(NamedTuple):
    """One of `count` equal parts along `dim`."""

    dim: int
    index: int
    count: int


def scale_name(name: str) -> str:
    """The name of the scales of a tensor: `model.layers.0.mlp.up_proj.weight_scale_inv` for `….weight`."""
    return f"{name}_scale_inv"


def quantized(
    scheme: str, name: str, tensor: "torch.Tensor", shard: Optional[Shard] = None
) -> Iterator[Tuple[str, "torch.Tensor"]]:
    """The tensors that take the place of one: its quantised values under its name, then its scales. Both are the same shard of
    the whole, if it is one.

    Raises `ValueError` for a scheme that is not known, for what is no matrix of BF16, FP16 or FP32, for a value that is not
    finite, and for a shard that cuts blocks.
    """
    if scheme not in SCHEMES:
        raise ValueError(f'quantize is "{scheme}"; there is {", ".join(SCHEMES)}')
    if shard is not None:
        _check_shard(tuple(tensor.shape), shard)
    values, scales = fp8_block(tensor)
    yield name, values
    yield scale_name(name), scales


def fp8_block(tensor: "torch.Tensor") -> Tuple["torch.Tensor", "torch.Tensor"]:
    """Quantises [..., rows, columns]: float8_e4m3fn of that shape, and float32 scales [..., ceil(rows / 128),
    ceil(columns / 128)], on the tensor's device. Raises `ValueError` as `quantized` does.
    """
    import torch

    if tensor.dtype not in (torch.bfloat16, torch.float16, torch.float32):
        raise ValueError(f"it is of {tensor.dtype}; what is quantised is bfloat16, float16 or float32")
    if tensor.dim() < 2:
        raise ValueError(f"its shape is {list(tensor.shape)}; what is quantised in blocks is a matrix, or several")
    *outer, rows, columns = tensor.shape
    tall, wide = -(-rows // BLOCK), -(-columns // BLOCK)
    values = torch.empty(tensor.shape, dtype=torch.float8_e4m3fn, device=tensor.device)
    scales = torch.empty((*outer, tall, wide), dtype=torch.float32, device=tensor.device)
    if tensor.numel() == 0:
        return values, scales.fill_(1.0)
    strip = max(1, _STRIP.get(tensor.device.type, 1 << 20) // (wide * BLOCK * BLOCK)) * BLOCK
    work = _Work(min(strip, tall * BLOCK), wide * BLOCK, tensor)
    # No reshape: it would copy a tensor that is not contiguous, whole.
    for matrix, quantised, scale in zip(_matrices(tensor), _matrices(values), _matrices(scales)):
        for row in range(0, rows, strip):
            blocks = slice(row // BLOCK, -(-min(row + strip, rows) // BLOCK))
            work.quantise(matrix[row : row + strip].detach(), quantised[row : row + strip], scale[blocks])
    if not work.is_finite:
        raise ValueError("it has values that are not finite, which FP8 by blocks cannot hold")
    return values, scales


def _matrices(tensor: "torch.Tensor") -> Iterator["torch.Tensor"]:
    if tensor.dim() == 2:
        yield tensor
        return
    for part in tensor:
        yield from _matrices(part)


class _Work:
    """Memory for one strip, used again for each: new memory takes longer than what is computed in it."""

    def __init__(self, rows: int, columns: int, tensor: "torch.Tensor") -> None:
        import torch

        #: Of the same size as the tensor's numbers. Without their sign, finite numbers are ordered as these are, below all others.
        self._integer, self._sign, self._infinite = {
            torch.bfloat16: (torch.int16, 0x7FFF, 0x7F80),
            torch.float16: (torch.int16, 0x7FFF, 0x7C00),
            torch.float32: (torch.int32, 0x7FFFFFFF, 0x7F800000),
        }[tensor.dtype]
        self._sizes = torch.zeros((rows, columns), dtype=self._integer, device=tensor.device)
        self._numbers = torch.zeros((rows, columns), dtype=torch.float32, device=tensor.device)
        self._most = torch.zeros((), dtype=self._integer, device=tensor.device)

    @property
    def is_finite(self) -> bool:
        return int(self._most) < self._infinite

    def quantise(self, weights: "torch.Tensor", values: "torch.Tensor", scales: "torch.Tensor") -> None:
        """Some rows of a matrix, of whole blocks but at its end."""
        import torch

        rows, columns = weights.shape
        tall, wide = scales.shape
        sizes, numbers = self._sizes[: tall * BLOCK], self._numbers[: tall * BLOCK]
        # What earlier strips left there. Columns beyond the edge are never written.
        sizes[rows:].zero_()
        torch.bitwise_and(weights.view(self._integer), self._sign, out=sizes[:rows, :columns])
        most = sizes.view(tall, BLOCK, wide * BLOCK).amax(dim=1).view(tall, wide, BLOCK).amax(dim=2)
        torch.maximum(self._most, most.max(), out=self._most)
        largest = most.view(weights.dtype).to(torch.float32)
        # By a tensor: torch multiplies by the reciprocal of a number on a GPU, which rounds twice.
        scale = (largest / torch.full_like(largest, _LARGEST)).clamp_(min=_SMALLEST_SCALE)
        scales.copy_(torch.where(largest == 0, torch.ones_like(scale), scale))
        numbers[:rows, :columns].copy_(weights)
        numbers.view(tall, BLOCK, wide, BLOCK).div_(scales[:, None, :, None])
        # No clamp: a quotient is above 448 by a rounding at most, and E4M3 rounds what is below 464 to 448.
        values.copy_(numbers[:rows, :columns])


def _check_shard(shape: Tuple[int, ...], shard: Shard) -> None:
    dim = shard.dim % len(shape) if shape else 0
    length = shape[dim] if shape else 0
    if shard.count > 1 and dim >= len(shape) - 2 and length % BLOCK != 0:
        raise ValueError(
            f"a shard of {length} along dimension {dim} cuts blocks of {BLOCK}, whose scales need all of their values:"
            f" quantise the whole tensor, or cut it at multiples of {BLOCK}"
        )
