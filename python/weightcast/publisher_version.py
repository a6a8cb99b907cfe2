"""One version while it is published."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Callable, Iterable, Iterator, Optional, Tuple

from .client_errors import CheckpointError, DaemonError, UsageError
from .publisher_copy import copy_part
from .publisher_files import VersionFiles
from .publisher_layout import Layout
from .publisher_parts import Given, equal_part
from .tensor_files import source_of, with_name


class Version:
    """Takes tensors, and is complete when every tensor of the layout is there. Made by `Publisher.version`.

    As a context manager: at the end of the block it is completed and registered; an exception inside abandons it.
    """

    def __init__(
        self,
        name: str,
        rank: int,
        layout: Layout,
        files: VersionFiles,
        complete: Callable[["Version"], None],
        abandon: Callable[["Version"], None],
    ) -> None:
        self.name = name
        self.layout = layout
        self.files = files
        self.given = Given()
        self._rank = rank
        self._complete = complete
        self._abandon = abandon
        self._is_open = True

    def __enter__(self) -> "Version":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if not self._is_open:
            return
        self._is_open = False
        if kind is None:
            self._complete(self)
        else:
            self._abandon(self)

    def put(
        self,
        name: str,
        tensor: Any,
        *,
        dim: Optional[int] = None,
        index: Optional[int] = None,
        count: Optional[int] = None,
    ) -> None:
        """Copies a tensor into the version; it may be overwritten when this returns.

        `tensor`: of torch (of the CPU or a GPU) or numpy, or `(dtype, shape, bytes)` with a dtype of the safetensors format and
        row-major little-endian bytes. With `dim`, `index` and `count` it is one of `count` equal shards along dimension `dim`
        of the tensor of this name; any rank may give it.

        Raises `CheckpointError` for another shape or dtype than in the versions before, and for what was given already;
        `UsageError` for what is no tensor; `HostMemoryError`. All name the tensor.
        """
        if not self._is_open:
            raise UsageError(f"version {self.name} is over: tensor {name} comes too late")
        with named(self.name):
            self._put(name, tensor, dim, index, count)

    def _put(
        self, name: str, tensor: Any, dim: Optional[int], index: Optional[int], count: Optional[int]
    ) -> None:
        source = with_name(name, lambda: source_of(tensor))
        shape, part = with_name(name, lambda: equal_part(source.shape, dim, index, count))
        place = self.layout.place(name, source.dtype, shape)
        self.given.add(name, part, self._rank)
        memory = self.files.memory(place)
        with_name(name, lambda: copy_part(source, memory, shape, part))

    def put_all(self, tensors: Iterable[Tuple[str, Any]]) -> None:
        """`put` for each (name, tensor) of an iterator, which may make each one as it is asked for."""
        for name, tensor in tensors:
            self.put(name, tensor)

    def check(self) -> None:
        """Raises `CheckpointError` that names the version and what is missing of it."""
        if not self.layout.places:
            raise CheckpointError(f"version {self.name} has no tensors")
        with named(self.name):
            self.given.check({name: place.shape for name, place in self.layout.places.items()})


@contextmanager
def named(version: str) -> Iterator[None]:
    """Errors with the version's name."""
    try:
        yield
    except DaemonError as error:
        text = f"version {version}: {error}"
        raise type(error)(text, code=error.code, retry=error.retry, status=error.status) from error
