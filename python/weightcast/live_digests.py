"""Digests of what a model holds: of every live tensor, each piece of memory once."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch

from .digesters import digester_of
from .errors import WeightcastError
from .gpu_digest import GpuDigester, Piece
from .live_tensors import Walks, is_parameter
from .tensor_memory import bytes_of, span_bytes

MOST_TENSORS = 100_000
"""Of a worker. The largest models have some thousands: experts lie stacked."""

_LAYOUT_BYTES = 16
_WORD = 8
_FORMS = {
    dtype: str(dtype).removeprefix("torch.")
    for dtype in vars(torch).values()
    if isinstance(dtype, torch.dtype)
}


@dataclass(frozen=True)
class LiveDigests:
    """One worker's. `names[i]` has the form after a space, `lm_head.weight bfloat16[2048,512](512,1)`."""

    names: tuple[str, ...]
    words: bytes
    """A little-endian 64-bit word for each name."""

    @property
    def layout(self) -> bytes:
        """The same for the same names, in any process."""
        return hashlib.sha256("\n".join(self.names).encode()).digest()[:_LAYOUT_BYTES]

    def without(self, names: set[str]) -> LiveDigests:
        if not names:
            return self
        kept = [index for index, name in enumerate(self.names) if name not in names]
        words = b"".join(self.words[_WORD * index : _WORD * (index + 1)] for index in kept)
        return LiveDigests(tuple(self.names[index] for index in kept), words)

    def word_of(self) -> dict[str, bytes]:
        words = self.words
        return {name: words[_WORD * index : _WORD * (index + 1)] for index, name in enumerate(self.names)}


@dataclass(frozen=True)
class Model:
    """A model of a worker. `prefix` tells its tensors from those of the worker's other models."""

    prefix: str
    model: torch.nn.Module


def digests_of(found: Sequence[tuple[str, torch.Tensor]]) -> LiveDigests:
    """On the current stream; waits for the device."""
    by_device: dict[torch.device, dict[Piece, torch.Tensor]] = {}
    spans: list[tuple[torch.device, Piece]] = []
    for _, tensor in found:
        device, key = tensor.device, (tensor.data_ptr(), span_bytes(tensor))
        by_device.setdefault(device, {}).setdefault(key, tensor)
        spans.append((device, key))
    word_of: dict[tuple[torch.device, Piece], bytes] = {}
    for device, pieces in by_device.items():
        digester = digester_of(device)
        if isinstance(digester, GpuDigester):
            digester.add_pieces(list(pieces))
        else:
            digester.add([bytes_of(tensor, (size,)) for (_, size), tensor in pieces.items()])
        words = digester.words()
        for index, key in enumerate(pieces):
            word_of[device, key] = words[_WORD * index : _WORD * (index + 1)]
    names = tuple(f"{name} {_form(tensor)}" for name, tensor in found)
    return LiveDigests(names, b"".join(word_of[span] for span in spans))


class LiveState:
    """What one update finds in models before it, and leaves in them. Reads, and changes nothing.

    Made before anything changes; call `settle` when all has changed, then the rest.

    Some tensors change while an engine serves, and no name says which. Those of a model that have changed between two
    updates, while its parameters have not, are left out from then on; captured graphs read none that have moved.
    """

    def __init__(self, models: Sequence[Model], walks: Walks) -> None:
        self._models = models
        self.is_whole = True
        """Whether all that the models hold could be seen."""
        # What stands for memory that torch does not see takes longer than all else, and is none that engines write.
        found = self._named((one, walks.of(one.model).seen) for one in models)
        self._after: list[tuple[str, torch.Tensor]] = []
        self._memory = _memory_of(models)
        if self._memory.captured is None:
            places = ((name, one.device.type, one.data_ptr()) for name, one in found if _stays(name, one))
            self._memory.captured = list(places)
        self._notice_volatile(found)

    def settle(self, walks: Walks) -> None:
        live = [(one, walks.of(one.model)) for one in self._models]
        self.is_whole = not any(tensors.opaque for _, tensors in live)
        self._after = self._named((one, tensors.by_name) for one, tensors in live)

    def take(self) -> LiveDigests:
        digests = digests_of(self._after)
        self._memory.last = digests
        self._memory.left = _addresses(self._after)
        return digests.without(self._memory.volatile)

    def moved(self, device: str) -> list[str]:
        """Names of tensors that lie elsewhere than before the first update, and whose memory the models hold no more. Single
        numbers that are no parameters are not among them.

        `device`: of that type; others are not read by their addresses.
        """
        held = _addresses(self._after)
        captured = self._memory.captured or []
        return [name for name, kind, address in captured if kind == device and address not in held]

    def _named(
        self, tensors: Iterable[tuple[Model, dict[str, torch.Tensor]]]
    ) -> list[tuple[str, torch.Tensor]]:
        found = [(one.prefix + name, tensor) for one, held in tensors for name, tensor in held.items()]
        if len(found) > MOST_TENSORS:
            raise WeightcastError(
                f"the model holds {len(found)} tensors; digests are taken of {MOST_TENSORS} at most"
            )
        return found

    def _notice_volatile(self, found: list[tuple[str, torch.Tensor]]) -> None:
        last = self._memory.last
        self._memory.last = None
        if last is None:
            return
        was = last.word_of()
        now = digests_of(
            [entry for entry in found if not is_parameter(entry[0]) or _is_small(entry[1])]
        ).word_of()
        changed = {name for name, word in now.items() if was.get(name, word) != word}
        # Someone else has updated the engine meanwhile.
        if any(map(is_parameter, changed)):
            return
        self._memory.volatile |= changed
        gone = self._memory.left - _addresses(found)
        self._memory.captured = [place for place in self._memory.captured or [] if place[2] not in gone]


@dataclass
class _Memory:
    """Of a worker's models, between updates."""

    volatile: set[str] = field(default_factory=set)
    last: LiveDigests | None = None
    left: set[int] = field(default_factory=set)
    """Where tensors lay after the last update."""
    captured: list[tuple[str, str, int]] | None = None
    """Where tensors lay when graphs were captured: name, type of device, address."""


_memories: WeakKeyDictionary[torch.nn.Module, _Memory] = WeakKeyDictionary()


def _memory_of(models: Sequence[Model]) -> _Memory:
    return _memories.setdefault(models[0].model, _Memory())


def forget(models: Sequence[Model], walks: Walks) -> None:
    """An update that takes no digests: what the last one left says nothing any more."""
    if _memory_of(models).captured is None:
        LiveState(models, walks)
    _memory_of(models).last = None


def _addresses(found: Sequence[tuple[str, torch.Tensor]]) -> set[int]:
    return {tensor.data_ptr() for _, tensor in found}


def _stays(name: str, tensor: torch.Tensor) -> bool:
    """Whether captured graphs may read it where it lies. vLLM makes some single numbers anew in every reload, and
    passes them to kernels as numbers."""
    return is_parameter(name) or tensor.numel() > 1


def _is_small(tensor: torch.Tensor) -> bool:
    """Enough of these to notice that the weights are others, and next to no time."""
    return tensor.numel() < 1 << 16


def _form(tensor: torch.Tensor) -> str:
    return _form_words(tensor.dtype, tensor.shape, tensor.stride())


@functools.lru_cache(4_096)
def _form_words(dtype: torch.dtype, shape: torch.Size, strides: tuple[int, ...]) -> str:
    sizes, steps = (",".join(map(str, values)) for values in (shape, strides))
    return f"{_FORMS.get(dtype, dtype)}[{sizes}]({steps})"
