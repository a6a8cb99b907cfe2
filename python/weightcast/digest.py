"""The digest of a tensor, as `native/memory/digest.h` defines it, in plain torch.

    digest = sum over i of (w[i] ^ s) * m(i)   mod 2^64

w[i]: the tensor's bytes as little-endian 64-bit words, the last one padded with zero bytes; m(i): splitmix64(i),
made odd. Integers of torch have a sign and wrap, which modulo 2^64 is the same.
"""

from __future__ import annotations

import struct

import torch

_SALT = 0x5745494748544341
# Words that are worked on at once: 16 MiB, so that what lies between two operations stays in a GPU's L2 cache.
_CHUNK = 1 << 21


class Digester:
    """Digests tensors of one device; keeps up to 16 MiB there, and takes up to 48 MiB more while it works.

    Nothing waits for the device before `words`.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._first_multipliers = _multipliers(0, 0, device)
        self._digests: list[torch.Tensor] = []

    def add(self, data: torch.Tensor) -> None:
        """`data`: the bytes of a tensor, as uint8 of one dimension that begins at a multiple of 8 bytes."""
        whole = data.numel() // 8
        words = data[: whole * 8].view(torch.int64)
        digest = torch.zeros((), dtype=torch.int64, device=self._device)
        for start in range(0, whole, _CHUNK):
            chunk = words[start : start + _CHUNK]
            digest += (chunk ^ _SALT).mul_(self._multipliers(start, chunk.numel())).sum()
        rest = data[whole * 8 :]
        if rest.numel() > 0:
            last = torch.zeros(8, dtype=torch.uint8, device=self._device)
            last[: rest.numel()] = rest
            digest += ((last.view(torch.int64) ^ _SALT) * self._multipliers(whole, 1)).sum()
        self._digests.append(digest)

    def words(self) -> bytes:
        """The digests of all tensors so far, in order, as little-endian 64-bit words."""
        if not self._digests:
            return b""
        return struct.pack(f"<{len(self._digests)}q", *torch.stack(self._digests).tolist())

    def __len__(self) -> int:
        return len(self._digests)

    def _multipliers(self, start: int, count: int) -> torch.Tensor:
        if start > 0:
            return _multipliers(start, count, self._device)
        # Most tensors are small, and all of them begin with the same ones.
        if count > self._first_multipliers.numel():
            self._first_multipliers = _multipliers(0, count, self._device)
        return self._first_multipliers[:count]


def _multipliers(start: int, count: int, device: torch.device) -> torch.Tensor:
    """m(start) to m(start + count - 1)."""
    z = torch.arange(start, start + count, dtype=torch.int64, device=device)
    z += _signed(0x9E3779B97F4A7C15)
    _xor_shifted(z, 30)
    z *= _signed(0xBF58476D1CE4E5B9)
    _xor_shifted(z, 27)
    z *= _signed(0x94D049BB133111EB)
    _xor_shifted(z, 31)
    return z.bitwise_or_(1)


def _xor_shifted(z: torch.Tensor, bits: int) -> None:
    """z ^= z >> bits, where zeros come in from above; torch's own shift brings copies of the sign in."""
    shifted = z >> bits
    shifted &= (1 << (64 - bits)) - 1
    z ^= shifted


def _signed(word: int) -> int:
    return word - (1 << 64) if word >= 1 << 63 else word
