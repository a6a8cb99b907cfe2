"""Which parts of tensors a model's `load_weights` reads, seen at each of torch's operations on them."""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

from .cuts import NOTHING, WHOLE, Cut, Extent
from .errors import PartsChanged
from .messages import Tensor

_VIEW, _COMPOSITE, _READ = range(3)

_HANDING_ON = frozenset(
    {
        torch.Tensor.numpy,
        torch.Tensor.tolist,
        torch.Tensor.data_ptr,
        torch.Tensor.untyped_storage,
        torch.Tensor.storage,
        torch.Tensor.__deepcopy__,
        torch.Tensor.__array__,
        torch.Tensor.__dlpack__,
        torch.Tensor.__cuda_array_interface__.__get__,
    }
)
_OF_LISTS = frozenset({torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor})
"""Of a list of tensors they take the numbers, by no operation that modes see."""


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
    torch, is not seen: `HandedOn` is for that. vLLM itself counts what is loaded in this way.

    vLLM's layerwise reload runs each loader at once, on the very tensors that it was given and a parameter on the meta
    device, and once more when the layer is whole: so a read is seen before anything is written into the model.
    """

    def __init__(self, tensors: Iterable[Watched]) -> None:
        super().__init__()
        # Tensors without elements have no address.
        self._tensors = sorted((one for one in tensors if one.address < one.end), key=lambda one: one.address)
        self._addresses = [one.address for one in self._tensors]

    def sees_this_thread(self) -> bool:
        return self in _get_current_dispatch_mode_stack()

    @contextlib.contextmanager
    def left(self) -> Iterator[None]:
        """For what it has been entered around and should not see. It sees it all the same where another mode is innermost."""
        if _get_current_dispatch_mode_stack()[-1:] != [self]:
            yield
            return
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
        for tensor in _tensors_in(values):
            self._note_tensor(tensor)

    def at(self, address: int | None) -> Watched | None:
        """The tensor that has a byte there."""
        if address is None:
            return None
        index = bisect_right(self._addresses, address) - 1
        return self._tensors[index] if index >= 0 and address < self._tensors[index].end else None

    def _note_tensor(self, tensor: torch.Tensor) -> None:
        address = _address_of(tensor)
        if address == 0:
            self._note_empty(tensor)
            return
        one = self.at(address)
        if one is None:
            return
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


class HandedOn(TorchFunctionMode):
    """While it is entered: whether memory that `watch` looks at is handed to what reads it past torch's operations, as numpy
    and kernels of Triton do. Each call of torch's takes longer with it."""

    def __init__(self, watch: ReadWatch) -> None:
        super().__init__()
        self._watch = watch
        self.name: str | None = None
        """Of the first tensor that was."""

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _HANDING_ON:
            self._look_at(args[:1])
        elif func in _OF_LISTS:
            self._look_at(value for value in (*args, *kwargs.values()) if isinstance(value, (tuple, list)))
        return func(*args, **kwargs)

    def _look_at(self, values: Iterable[Any]) -> None:
        for tensor in _tensors_in(values):
            if self.name is None:
                one = self._watch.at(_address_of(tensor))
                self.name = None if one is None else one.name


def _tensors_in(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors_in(value)


def _address_of(tensor: torch.Tensor) -> int | None:
    """None: it is of one of torch's own kinds, without memory of its own. 0: it has no elements."""
    try:
        return tensor.data_ptr()
    except RuntimeError:
        return None


_kinds: dict[Any, int] = {}


def _kind_of(func: Any) -> int:
    aliases = [argument.alias_info for argument in func._schema.arguments if argument.alias_info is not None]
    if not aliases or any(alias.is_write for alias in aliases):
        return _READ
    is_composite = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")
    return _COMPOSITE if is_composite else _VIEW
