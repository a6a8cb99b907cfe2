"""What a worker keeps of each tensor: recorded while whole tensors are loaded, asked for in later updates.

`src/engines/worker-link/messages.ts` has what is said of it. A record belongs to a model in this process.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import secrets
from array import array
from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch

from .cuts import WHOLE, Cut, is_of_words
from .digest import SALT, signed
from .errors import PartsChanged, PartsUnknown, ProtocolError
from .messages import Kept, Open, Tensor
from .reads import HandedOn, ReadWatch, Watched

# Below vLLM's own logger, so that it is printed as vLLM's lines are.
logger = logging.getLogger("vllm.weightcast")

_MOST_RECORDS = 64
"""Of a model: one for each layout that it was updated with, of which a token and a number are kept."""
_WORD_MASK = (1 << 64) - 1


class _Memory:
    """What is known of a model's loaders."""

    def __init__(self) -> None:
        self.nonce = secrets.token_hex(8)
        self.reads: dict[str, int] = {}
        """By token: what was read, as `KeptParts` adds it up."""
        self.reason: str | None = None
        """Why this model gets whole tensors for ever."""

    def give_up(self, reason: str) -> None:
        self.reads.clear()
        if self.reason != reason:
            self.reason = reason
            logger.warning("the model gets whole tensors from now on: %s", reason)


_memories: WeakKeyDictionary[Any, _Memory] = WeakKeyDictionary()


class KeptParts:
    """Of one exchange. Call `open` first; for each bucket `unpack`, load within `watch`, and `loaded`; then `finish`, and
    `kept` when all is installed. Does nothing where the rank does not ask for parts.

    A model whose reads differ from its record gets whole tensors for as long as it lives: it would fail again and again.
    """

    def __init__(self, model: Any) -> None:
        """`model`: the first of those that are loaded."""
        self._memory = _memories.setdefault(model, _Memory())
        self._token: str | None = None
        self._is_recording = False
        self._watch: ReadWatch | None = None
        self._unseen: str | None = None
        """Why some reads are not."""
        self._watched: list[Watched] = []
        self._reads = 0
        self._names = hashlib.sha256()
        self._dims, self._starts, self._lengths = array("B"), array("I"), array("I")

    def open(self, request: Open) -> bool:
        """Whether the reads of this exchange are recorded, or parts taken by an earlier record. Raises PartsUnknown."""
        if request.kept is not None:
            if request.kept not in self._memory.reads:
                raise PartsUnknown(
                    "this worker has no record of the parts that the rank would send: it is another one, or the model is"
                )
            self._token = request.kept
        elif request.parts:
            if request.exchanges not in (None, 1):
                # A record would be of one of the exchanges, and the rank has one for all of them.
                self._memory.give_up("models that take the weights apart keep parts of their own")
            self._is_recording = self._memory.reason is None
        return self.takes_part

    def unpack(
        self, tensors: Sequence[Tensor], places: Sequence[tuple[torch.Tensor, torch.Tensor]]
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """`places`: the bytes of each tensor, and itself, where they lie in the link buffer. Returns the same, but parts at
        their place in a tensor of the whole shape, of which a digest counts nothing else. Raises ProtocolError."""
        unpacked = list(places)
        for index, tensor in enumerate(tensors):
            if tensor.part is not None:
                if self._token is None:
                    raise ProtocolError(
                        f"the rank sends a part of {tensor.name!r}, of which nothing was agreed"
                    )
                unpacked[index] = _in_whole(tensor, places[index][1])
        if self.takes_part:
            pairs = zip(tensors, unpacked, strict=True)
            self._watched = [Watched(tensor, whole) for tensor, (_, whole) in pairs]
            self._watch = ReadWatch(self._watched)
        return unpacked

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Around the model's own `load_weights`, and nothing else that reads. Raises PartsChanged."""
        if self._watch is None:
            yield
            return
        # Loaders do the same each time, so once is enough.
        handed_on = HandedOn(self._watch) if self._is_recording else None
        try:
            with self._watch, handed_on or contextlib.nullcontext():
                yield
        except PartsChanged as error:
            self._memory.give_up(str(error))
            raise
        if handed_on is not None and handed_on.name is not None:
            self._unseen = f"tensor {handed_on.name!r} is read past torch's operations, which nobody sees"
        self._check_seen()

    def unwatched(self) -> contextlib.AbstractContextManager[None]:
        """Within `watch`, around what reads nothing that was not read before."""
        if self._watch is None:
            return contextlib.nullcontext()
        if not self._watch.sees_this_thread():
            self._unseen = "layers are loaded in other threads, whose reads nobody sees"
        return self._watch.left()

    def loaded(self) -> None:
        """A bucket is. Raises PartsChanged."""
        for one in self._watched:
            cut = one.cut()
            if one.sent not in (WHOLE, cut):
                self._changed(
                    f"of tensor {one.name!r} it reads {cut.words()} now, and read {one.sent.words()}"
                )
            if one.extent.is_read:
                self._reads = (self._reads + hash((one.name, cut))) & _WORD_MASK
            if self._is_recording:
                self._names.update(one.name.encode() + b"\n")
                self._dims.append(cut.dim)
                self._starts.append(cut.start)
                self._lengths.append(cut.length)
        self._watch = None
        self._watched = []

    def finish(self) -> None:
        """All weights were loaded, and nothing was processed yet. Raises PartsChanged."""
        if self._reads == 0:
            self._unseen = "no read of any tensor was seen"
        self._check_seen()
        if self._token is not None and self._memory.reads.get(self._token) != self._reads:
            self._changed("it reads some tensors that it did not read, or passes over some that it read")

    def kept(self) -> Kept | None:
        """Of the tensors of this exchange, in order, when what they were loaded into is right; None: not known."""
        if not self._is_recording:
            return None
        columns = [column.tobytes() for column in (self._dims, self._starts, self._lengths)]
        for column in columns:
            self._names.update(column)
        token = f"{self._memory.nonce}-{self._names.hexdigest()[:16]}"
        reads = self._memory.reads
        reads.pop(token, None)
        reads[token] = self._reads
        while len(reads) > _MOST_RECORDS:
            del reads[next(iter(reads))]
        return Kept(token, *columns)

    @property
    def takes_part(self) -> bool:
        """Whether reads are watched, bucket by bucket: what is not read when a bucket is loaded, is not kept."""
        return self._is_recording or self._token is not None

    def _check_seen(self) -> None:
        """Parts by such a record would leave out what the model reads."""
        if self._is_recording and self._unseen is not None:
            self._memory.give_up(self._unseen)
            self._is_recording = False

    def _changed(self, how: str) -> None:
        error = PartsChanged(f"the model reads otherwise than when its reads were recorded: {how}")
        self._memory.give_up(str(error))
        raise error


def _in_whole(tensor: Tensor, part: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Bytes of a tensor that has the part at its place, and itself. A word of the digest's constant adds nothing to it."""
    cut = Cut(*tensor.part)
    if not is_of_words(tensor.shape, part.element_size(), cut):
        raise ProtocolError(f"tensor {tensor.name!r}: {cut.words()} is no part of whole 8-byte words")
    words = math.prod(tensor.shape) * part.element_size() // 8
    data = torch.full((words,), signed(SALT), dtype=torch.int64, device=part.device).view(torch.uint8)
    whole = data.view(part.dtype).view(tensor.shape)
    whole.narrow(*cut).copy_(part)
    return data, whole
