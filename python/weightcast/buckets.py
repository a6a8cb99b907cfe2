"""The tensors of a bucket on their way into a model, and how one call of `load_weights` may take those of the next one too."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterable, Iterator

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from .errors import BufferInUse

Pair = tuple[str, torch.Tensor]

MOST_COPIED = 32 << 20
"""Bytes of a bucket's last tensor: what iterates over tensors holds on to one until it has the next. Of a larger one no copy
is made, so that the call ends with it."""


class Bucket(list[Pair]):
    """What `load_weights` gets. A loader may give the tensors away one by one (`each`), and then ask for those of the bucket
    that follows."""

    def __init__(self, pairs: Iterable[Pair], lent: int, following: Following | None) -> None:
        super().__init__(pairs)
        self.lent = lent
        """Address of the link buffer's storage. Tensors that lie elsewhere are the model's."""
        self.following = following
        """None where none can follow in the same call."""

    def each(self) -> Iterator[Pair]:
        """Leaves none of them here."""
        self.reverse()
        while self:
            yield self.pop()


Following = Callable[[], "Bucket | None"]
"""Ends a bucket. Returns the next one; None where there is none, or somebody may still read this one: then `load_weights` has
to return."""


def apart(weights: list[Pair]) -> list[Pair]:
    """For one of several models that take the same bucket, which none of them ends."""
    return Bucket(weights, weights.lent, None) if isinstance(weights, Bucket) else weights


class Lent:
    """The link buffer for one bucket, by a storage of its own."""

    def __init__(self, link_buffer: torch.Tensor) -> None:
        # torch hands memory on from the device that is current alone.
        is_on_gpu = link_buffer.device.type == "cuda"
        with torch.cuda.device(link_buffer.device) if is_on_gpu else contextlib.nullcontext():
            self._bytes: torch.Tensor | None = torch.from_dlpack(link_buffer)
        storage = self._bytes.untyped_storage()
        self.address = storage.data_ptr()
        self._storage = StorageWeakRef(storage)

    @property
    def bytes(self) -> torch.Tensor:
        assert self._bytes is not None, "the bucket has been given"
        return self._bytes

    def give(self) -> None:
        """All that is to be had of it is."""
        self._bytes = None

    @property
    def is_back(self) -> bool:
        """Whether no tensor is left in it, in all of this process."""
        return self._storage.expired()

    def take_back(self) -> None:
        """Before the rank writes over it, gives tensors that a model still holds memory of their own: vLLM's DeepSeek V3.2 keeps
        an FP8 weight until its scale comes, which may be in a later bucket. Raises BufferInUse where that is not enough."""
        if self.is_back:
            return
        for one in gc.get_objects():
            # By its type: other things may do anything when they are asked of what class they are.
            if issubclass(type(one), torch.Tensor) and self._has(one):
                one.data = one.data.clone()
        if not self.is_back:
            raise BufferInUse(
                "the model holds on to memory of the link buffer after it was loaded; load_weights must copy what it is given"
            )

    def _has(self, tensor: torch.Tensor) -> bool:
        try:
            return tensor.untyped_storage()._cdata == self._storage.cdata
        except (NotImplementedError, RuntimeError):
            # One of torch's own kinds, without memory of its own.
            return False


def copied_if_small(data: torch.Tensor, view: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of a bucket's last tensor: its bytes, and itself."""
    if data.numel() > MOST_COPIED:
        return data, view
    data = data.clone()
    return data, data.view(view.dtype).view(view.shape)
