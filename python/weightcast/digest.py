"""The digest of a tensor, as `native/memory/digest.h` defines it.

    digest = sum over i of (w[i] ^ s) * m(i)   mod 2^64

w[i]: the tensor's bytes as little-endian 64-bit words, the last one padded with zero bytes; m(i): splitmix64(i),
made odd.
"""

from __future__ import annotations

import struct
from typing import Protocol

import torch

SALT = 0x5745494748544341


class Digester(Protocol):
    """Digests the tensors of one exchange. Nothing waits for the device before `words`."""

    def add(self, tensors: list[torch.Tensor]) -> None:
        """`tensors`: the bytes of each, as uint8 of one dimension that begins at a multiple of 8 bytes."""

    def words(self) -> bytes:
        """The digests of all tensors so far, in order, as little-endian 64-bit words."""


def multiplier(index: int) -> int:
    z = _word(index + 0x9E3779B97F4A7C15)
    z = _word((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9)
    z = _word((z ^ (z >> 27)) * 0x94D049BB133111EB)
    return (z ^ (z >> 31)) | 1


def padding_digest(size: int) -> int:
    """The part of the zero bytes that fill the last word of a tensor of `size` bytes."""
    used = size % 8
    if used == 0:
        return 0
    return _word((SALT >> 8 * used << 8 * used) * multiplier(size // 8))


def pack_words(words: list[int]) -> bytes:
    """Integers with a sign, as torch has them."""
    return struct.pack(f"<{len(words)}q", *words)


def signed(word: int) -> int:
    return word - (1 << 64) if word >= 1 << 63 else word


def _word(number: int) -> int:
    return number & ((1 << 64) - 1)
