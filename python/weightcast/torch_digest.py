"""Digests in plain torch, on any device. Integers of torch have a sign and wrap, which modulo 2^64 is the same."""

from __future__ import annotations

import torch

from .digest import SALT, pack_words, signed

# Words that are worked on at once: 16 MiB, so that what lies between two operations stays in a cache.
_CHUNK = 1 << 21


class TorchDigester:
    """Keeps up to 16 MiB on the device, and takes up to 48 MiB more while it works."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._first_multipliers = _multipliers(0, 0, device)
        self._digests: list[torch.Tensor] = []

    def add(self, tensors: list[torch.Tensor]) -> None:
        self._digests += [self._digest(data) for data in tensors]

    def words(self) -> bytes:
        return pack_words(torch.stack(self._digests).tolist()) if self._digests else b""

    def _digest(self, data: torch.Tensor) -> torch.Tensor:
        if data.storage_offset() % 8 != 0:
            # A view of words needs an aligned start.
            data = data.clone()
        whole = data.numel() // 8
        words = data[: whole * 8].view(torch.int64)
        digest = torch.zeros((), dtype=torch.int64, device=self._device)
        for start in range(0, whole, _CHUNK):
            chunk = words[start : start + _CHUNK]
            digest += (chunk ^ SALT).mul_(self._multipliers(start, chunk.numel())).sum()
        rest = data[whole * 8 :]
        if rest.numel() > 0:
            last = torch.zeros(8, dtype=torch.uint8, device=self._device)
            last[: rest.numel()] = rest
            digest += ((last.view(torch.int64) ^ SALT) * self._multipliers(whole, 1)).sum()
        return digest

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
    z += signed(0x9E3779B97F4A7C15)
    _xor_shifted(z, 30)
    z *= signed(0xBF58476D1CE4E5B9)
    _xor_shifted(z, 27)
    z *= signed(0x94D049BB133111EB)
    _xor_shifted(z, 31)
    return z.bitwise_or_(1)


def _xor_shifted(z: torch.Tensor, bits: int) -> None:
    """z ^= z >> bits, where zeros come in from above; torch's own shift brings copies of the sign in."""
    shifted = z >> bits
    shifted &= (1 << (64 - bits)) - 1
    z ^= shifted
