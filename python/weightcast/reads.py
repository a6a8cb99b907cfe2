"""Which parts of tensors a model's `load_weights` reads, seen at each of torch's operations on them."""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from .cuts import NOTHING, WHOLE, Cut, Extent
from .errors import PartsChanged
from .messages import Tensor

_VIEW, _COMPOSITE, _READ = range(3)


class Watched:
    """A contiguous tensor whose reads are looked for: within `sent`, no others are allowed."""

    __slots__ = ("_is_divisible", "address", "end", "extent", "name", "sent")

    def __init__(self, tensor: Tensor, whole: torch.Tensor) -> None:
        self.name = tensor.name
        self.sent = WHOLE if tensor.part is None else Cut(*tensor.part)
        # torch packs several elements of some types into one of its own, and counts those.
        self._is_divisible = whole.shape == tensor.shape
        self.address = whole.data_ptr()
        self.end = self.address + whole.nbytes
        self.extent = Extent(whole.shape, whole.element_size())

    def cut(self) -> Cut:
        """What was read."""
        cut = self.extent.cut() if self.address < self.end else WHOLE
        return cut if self._is_divisible or cut == NOTHING else WHOLE


class ReadWatch(TorchDispatchMode):
    """While it is entered, operations of this thread on the memory of `tensors` count as reads of the views that they are
    given, unless they make nothing but another view. Holds no tensor.

    An operation that only asks for a tensor's form, or writes into it, counts too. What reads memory by its address, past
    torch, is not seen: no loader of vLLM's does, and vLLM itself counts what is loaded in this way.

    vLLM's layerwise reload runs each loader at once, on the very tensors that it was given and a parameter on the meta
    device, and once more when the layer is whole: so a read is seen before anything is written into the model.
    """

    def __init__(self, tensors: Iterable[Watched]) -> None:
        super().__init__()
        # Tensors without elements have no address.
        self._tensors = sorted((one for one in tensors if one.address < one.end), key=lambda one: one.address)
        self._addresses = [one.address for one in self._tensors]

    @contextlib.contextmanager
    def left(self) -> Iterator[None]:
        """For what it has been entered around, as the innermost mode, and should not see."""
        self.__exit__(None, None, None)
        try:
            yield
        finally:
            self.__enter__()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        kind = _kinds.get(func)
        if kind is None:
            kind = _kinds[func] = _kind_of(func)
        if kind == _READ:
            self._note(args)
            if kwargs:
                self._note(kwargs.values())
        elif kind == _COMPOSITE:
            # In inference mode it comes in one piece, which may be a view or a copy.
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
            self._note(args)
        return func(*args, **kwargs)

    def _note(self, values: Iterable[Any]) -> None:
        for value in values:
            if isinstance(value, torch.Tensor):
                self._note_tensor(value)
            elif isinstance(value, (tuple, list)):
                self._note(value)

    def _note_tensor(self, tensor: torch.Tensor) -> None:
        try:
            address = tensor.data_ptr()
        except RuntimeError:
            # Some of torch's own kinds of tensors have no memory of theirs.
            return
        if address == 0:
            self._note_empty(tensor)
            return
        index = bisect_right(self._addresses, address) - 1
        if index < 0 or address >= self._tensors[index].end:
            return
        one = self._tensors[index]
        one.extent.add(address - one.address, tensor.element_size(), tensor.shape, tensor.stride())
        if not one.extent.is_within(one.sent):
            raise PartsChanged(
                f"the model reads more of tensor {one.name!r} than when its reads were recorded: {one.sent.words()}"
            )

    def _note_empty(self, tensor: torch.Tensor) -> None:
        if tensor.is_meta or tensor.numel() > 0:
            return
        address = tensor.untyped_storage().data_ptr() + tensor.storage_offset() * tensor.element_size()
        # It may lie at the end of one tensor and at the start of the next.
        for index in range(max(bisect_right(self._addresses, address) - 2, 0), len(self._tensors)):
            one = self._tensors[index]
            if one.address > address:
                return
            if address <= one.end:
                one.extent.touch()


_kinds: dict[Any, int] = {}


def _kind_of(func: Any) -> int:
    aliases = [argument.alias_info for argument in func._schema.arguments if argument.alias_info is not None]
    if not aliases or any(alias.is_write for alias in aliases):
        return _READ
    is_composite = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")
    return _COMPOSITE if is_composite else _VIEW
