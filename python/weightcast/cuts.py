"""Which part of a tensor is read, as one cut along one dimension."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

_WORD = 8
_MOST = (1 << 32) - 1
"""What a column of the worker link holds."""


class Cut(NamedTuple):
    """`tensor.narrow(dim, start, length)`, or one of the two below."""

    dim: int
    start: int
    length: int

    def words(self) -> str:
        if self in (WHOLE, NOTHING):
            return "all of it" if self == WHOLE else "nothing"
        return f"{self.start} to {self.start + self.length - 1} along dimension {self.dim}"


WHOLE = Cut(255, 0, 0)
NOTHING = Cut(0, 0, 0)


class Extent:
    """What is read of one contiguous tensor: along each dimension from the first index to the last one.

    Any read lies within `narrow(dim, first, last - first + 1)`, whichever dimension is taken. So the extent of reads with
    gaps between them is larger than what they read, and never smaller.
    """

    __slots__ = ("_first", "_is_touched", "_item_bytes", "_last", "_pitches", "_shape")

    def __init__(self, shape: tuple[int, ...], item_bytes: int) -> None:
        self._shape = shape
        self._item_bytes = item_bytes
        self._pitches = _pitches(shape, item_bytes)
        self._first: list[int] | None = None
        self._last: list[int] = []
        self._is_touched = False

    def add(self, low: int, item_bytes: int, sizes: Sequence[int], strides: Sequence[int]) -> None:
        """A read of a view, by where its first element lies (in bytes from the tensor's), and its elements' size, number and
        distance (in elements) along each of its dimensions. It may have another type than the tensor."""
        steps = [
            (stride * item_bytes, size - 1) for stride, size in zip(strides, sizes, strict=True) if size > 1
        ]
        first, last = [], []
        period = 0
        for pitch, size in zip(self._pitches, self._shape, strict=True):
            begin = low % period if period else low
            end = begin + item_bytes - 1
            for step, count in steps:
                # A step over whole indices of the dimension before does not move along this one.
                if not period or step % period:
                    end += step * count
            if period and end >= period:
                begin, end = 0, pitch * size - 1
            first.append(begin // pitch)
            last.append(end // pitch)
            period = pitch
        if self._first is None:
            self._first, self._last = first, last
        else:
            self._first = list(map(min, self._first, first))
            self._last = list(map(max, self._last, last))

    def touch(self) -> None:
        """A loader was given none of the tensor's elements: it counts on being asked, though it reads nothing."""
        self._is_touched = True

    @property
    def is_read(self) -> bool:
        return self._first is not None

    def is_within(self, cut: Cut) -> bool:
        if self._first is None or cut == WHOLE:
            return True
        return cut.start <= self._first[cut.dim] and self._last[cut.dim] < cut.start + cut.length

    def cut(self) -> Cut:
        """The smallest one that has all that was read, if its bytes can be sent and digested apart; else WHOLE."""
        if self._first is None:
            return WHOLE if self._is_touched else NOTHING
        best, least = WHOLE, 1.0
        for dim, size in enumerate(self._shape):
            cut = Cut(dim, self._first[dim], self._last[dim] - self._first[dim] + 1)
            if (
                cut.length / size < least
                and max(cut) <= _MOST
                and is_of_words(self._shape, self._item_bytes, cut)
            ):
                best, least = cut, cut.length / size
        return best


def is_of_words(shape: tuple[int, ...], item_bytes: int, cut: Cut) -> bool:
    """Whether a part has whole words of the tensor's, and the tensor has no others: then digests of parts add up."""
    pitches = _pitches(shape, item_bytes)
    pitch = pitches[cut.dim]
    edges = (cut.start * pitch, cut.length * pitch, shape[cut.dim] * pitch, math.prod(shape) * item_bytes)
    return all(edge % _WORD == 0 for edge in edges)


@functools.lru_cache(1_024)
def _pitches(shape: tuple[int, ...], item_bytes: int) -> tuple[int, ...]:
    """Bytes from one index to the next, along each dimension. A model has few shapes."""
    pitches = [item_bytes] * len(shape)
    for dim in range(len(shape) - 1, 0, -1):
        pitches[dim - 1] = pitches[dim] * shape[dim]
    return tuple(pitches)
