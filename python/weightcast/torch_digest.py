"""Digests in plain torch, on any device. Integers of torch have a sign and wrap, which modulo 2^64 is the same."""

from __future__ import annotations

import functools

import torch

from .digest import SALT, multiplier, pack_words, signed

# Words that are worked on at once. On a CPU half a MiB, so that what lies between two operations stays in a cache; elsewhere
# each operation takes time of its own.
_CHUNK_ON_CPU = 1 << 16
_CHUNK = 1 << 21
_MOST_KEPT = 32
"""Chunks of multipliers on the CPU: 16 MiB, for the tensors of later updates too."""


class TorchDigester:
    """Takes up to three chunks on the device while it works."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._chunk = _CHUNK_ON_CPU if device.type == "cpu" else _CHUNK
        self._digests: list[torch.Tensor] = []

    def add(self, tensors: list[torch.Tensor]) -> None:
        # A view of words needs an aligned start.
        data = [one if one.storage_offset() % 8 == 0 else one.clone() for one in tensors]
        words = [one[: one.numel() // 8 * 8].view(torch.int64) for one in data]
        sums = torch.zeros(len(data), dtype=torch.int64, device=self._device)
        longest = max((one.numel() for one in words), default=0)
        scratch = torch.empty(min(longest, self._chunk), dtype=torch.int64, device=self._device)
        # All tensors have the same multipliers, which take longer than the rest.
        for start in range(0, longest, self._chunk):
            multipliers = self._multipliers(start, min(longest - start, self._chunk))
            for one, digest in zip(words, sums, strict=True):
                if one.numel() > start:
                    digest += _digest(one[start : start + self._chunk], multipliers, scratch)
        for one, digest in zip(data, sums, strict=True):
            if one.numel() % 8 != 0:
                digest += _digest_of_rest(one)
        self._digests.append(sums)

    def words(self) -> bytes:
        return pack_words(torch.cat(self._digests).tolist()) if self._digests else b""

    def _multipliers(self, start: int, count: int) -> torch.Tensor:
        if self._device.type != "cpu":
            return _multipliers(start, count, self._device)
        return _kept_multipliers(start)


def _digest(words: torch.Tensor, multipliers: torch.Tensor, scratch: torch.Tensor) -> torch.Tensor:
    mixed = torch.bitwise_xor(words, SALT, out=scratch[: words.numel()])
    return mixed.mul_(multipliers[: words.numel()]).sum()


def _digest_of_rest(data: torch.Tensor) -> torch.Tensor:
    """Of the bytes of a last word that is not whole."""
    whole = data.numel() // 8
    last = torch.zeros(8, dtype=torch.uint8, device=data.device)
    last[: data.numel() % 8] = data[8 * whole :]
    return (last.view(torch.int64)[0] ^ SALT) * signed(multiplier(whole))


@functools.lru_cache(_MOST_KEPT)
def _kept_multipliers(start: int) -> torch.Tensor:
    return _multipliers(start, _CHUNK_ON_CPU, torch.device("cpu"))


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
