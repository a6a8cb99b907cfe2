"""Parts of tensors: which one is given, whether all of them were, and how their bytes lie in the whole tensor."""

from __future__ import annotations

import itertools
import math
from typing import Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from .client_errors import CheckpointError
from .publisher_layout import Place


class Part(NamedTuple):
    """A box of a tensor: of all its dimensions, where it starts, and how long it is."""

    starts: Tuple[int, ...]
    lengths: Tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.lengths)


def whole(shape: Sequence[int]) -> Part:
    return Part((0,) * len(shape), tuple(shape))


def equal_part(
    shape: Sequence[int], dim: Optional[int], index: Optional[int], count: Optional[int]
) -> Tuple[Tuple[int, ...], Part]:
    """The whole shape, and the part that is one of `count` equal ones along `dim`. Raises `ValueError`."""
    if dim is None and index is None and count is None:
        return tuple(shape), whole(shape)
    if dim is None or index is None or count is None:
        raise ValueError("a shard has dim, index and count")
    if not -len(shape) <= dim < len(shape):
        raise ValueError(f"dim is {dim}; the shard has {len(shape)} dimensions")
    if not 0 <= index < count:
        raise ValueError(f"index is {index}, and count {count}; shards are numbered from 0 to count - 1")
    dim %= len(shape)
    full, starts = list(shape), [0] * len(shape)
    full[dim] *= count
    starts[dim] = index * shape[dim]
    return tuple(full), Part(tuple(starts), tuple(shape))


def runs(shape: Sequence[int], part: Part) -> Tuple[Iterator[int], int]:
    """Of a part in row-major memory: where each of its contiguous runs starts in the whole tensor, and how long one is, in
    elements. The part itself is the runs, one after the other."""
    if part.lengths == tuple(shape):
        # It is whole, as nearly all are.
        return iter((0,)), part.elements
    inner = len(shape)
    run = 1
    while inner > 0:
        inner -= 1
        run *= part.lengths[inner]
        if part.lengths[inner] != shape[inner]:
            break
    strides = [math.prod(shape[dim + 1 :]) for dim in range(len(shape))]
    base = sum(start * stride for start, stride in zip(part.starts, strides))
    outer = [range(0, part.lengths[dim] * strides[dim], max(1, strides[dim])) for dim in range(inner)]
    return (base + sum(offsets) for offsets in itertools.product(*outer)), run


class Given:
    """The parts of a version that were given, each by one rank."""

    def __init__(self) -> None:
        self._parts: Dict[str, Dict[Part, int]] = {}

    def add(self, name: str, part: Part, rank: int) -> None:
        """Raises `CheckpointError` if the same part was given before."""
        parts = self._parts.setdefault(name, {})
        if part in parts:
            who = f"rank {rank} twice" if parts[part] == rank else f"both rank {parts[part]} and rank {rank}"
            raise CheckpointError(f"tensor {name}: {_words(part)} is given by {who}")
        parts[part] = rank

    def take_back(self, name: str, part: Part) -> None:
        """It was not given after all."""
        parts = self._parts[name]
        del parts[part]
        if not parts:
            del self._parts[name]

    def check(self, places: Mapping[str, Place]) -> None:
        """Raises `CheckpointError` that names a tensor of which something is missing, or given in two ways."""
        if not places:
            raise CheckpointError("it has no tensors")
        for name, place in places.items():
            shape = place.shape
            parts = self._parts.get(name)
            if parts is None:
                raise CheckpointError(f"tensor {name} is missing")
            if len(parts) == 1 and next(iter(parts)).lengths == shape:
                continue  # It is whole, as nearly all are: there may be 100,000.
            boxes = [part for part in parts if part.elements > 0]
            elements = sum(part.elements for part in boxes)
            total = math.prod(shape)
            if elements < total:
                raise CheckpointError(f"tensor {name} is incomplete: {elements} of its {total} elements are given")
            if elements > total or _overlap(boxes):
                raise CheckpointError(f"tensor {name} is given in parts that overlap, by {_ranks(parts)}")

    def of_rank(self, rank: int) -> List[Tuple[str, Part]]:
        return [(name, part) for name, parts in self._parts.items() for part, by in parts.items() if by == rank]


def _overlap(boxes: Sequence[Part]) -> bool:
    """Whether two of them do. Those that are cut along one dimension, as nearly always, are only sorted."""
    if len(boxes) < 2:
        return False
    dims = [dim for dim in range(len(boxes[0].starts)) if len({box.starts[dim] for box in boxes}) > 1]
    if len(dims) == 1:
        ends = sorted((box.starts[dims[0]], box.starts[dims[0]] + box.lengths[dims[0]]) for box in boxes)
        return any(end > start for (_, end), (start, _) in zip(ends, ends[1:]))
    return any(_meet(one, other) for one, other in itertools.combinations(boxes, 2))


def _meet(one: Part, other: Part) -> bool:
    return all(
        start < other_start + other_length and other_start < start + length
        for start, length, other_start, other_length in zip(one.starts, one.lengths, other.starts, other.lengths)
    )


def _words(part: Part) -> str:
    if not any(part.starts):
        return f"what begins at its start ({list(part.lengths)})"
    return f"what begins at {list(part.starts)} ({list(part.lengths)})"


def _ranks(parts: Mapping[Part, int]) -> str:
    ranks = sorted(set(parts.values()))
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
