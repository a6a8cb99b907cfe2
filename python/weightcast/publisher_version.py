"""One version while it is published."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Callable, Iterable, Iterator, Optional, Tuple

from .client_errors import CheckpointError, DaemonError, UsageError
from .publisher_copy import Copier
from .publisher_dtensor import is_dtensor, local_part
from .publisher_files import VersionFiles
from .publisher_group import Group
from .publisher_nan import refuse_nan_in
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
        group: Group,
        files: VersionFiles,
        copier: Copier,
        refuse_nan: bool,
        end: Callable[["Version", Optional[BaseException]], None],
    ) -> None:
        self.name = name
        self.files = files
        self.given = Given()
        self._rank = rank
        self._group = group
        self._copier = copier
        self._refuse_nan = refuse_nan
        self._end = end
        self._is_open = True

    def __enter__(self) -> "Version":
        return self

    def __exit__(self, kind: object, error: Optional[BaseException], *_: object) -> None:
        if not self._is_open:
            return
        self._is_open = False
        self._end(self, error)

    def abandon(self, reason: str = "it was abandoned") -> None:
        """Gives it up; its memory is used for the next one."""
        self.__exit__(None, CheckpointError(reason))

    def put(
        self,
        name: str,
        tensor: Any,
        *,
        dim: Optional[int] = None,
        index: Optional[int] = None,
        count: Optional[int] = None,
        refuse_nan: Optional[bool] = None,
    ) -> None:
        """Copies a tensor into the version; it may be overwritten when this returns (one of a GPU by what comes later on its
        current stream).

        `tensor`: of torch (of the CPU or a GPU) or numpy, or `(dtype, shape, bytes)` with a dtype of the safetensors format and
        row-major little-endian bytes. A DTensor stands for this rank's shard of it; what is replicated is given by the first
        rank that has it. With `dim`, `index` and `count` it is one of `count` equal shards along dimension `dim` of the tensor
        of this name; any rank may give it.

        `refuse_nan`: raise if it has one; by default as the version says.

        Raises `CheckpointError` for another shape or dtype than in the versions before, for what was given already, and for a
        NaN; `UsageError` for what is no tensor; `HostMemoryError`. All name version, rank and tensor.
        """
        if not self._is_open:
            raise UsageError(f"version {self.name} is over: tensor {name} comes too late")
        refuse = self._refuse_nan if refuse_nan is None else refuse_nan
        with named(self.name, self._rank):
            self._put(name, tensor, refuse, dim, index, count)

    def put_all(self, tensors: Iterable[Tuple[str, Any]], **options: Any) -> None:
        """`put` for each (name, tensor) of an iterator, which may make each one as it is asked for. `options`: those of `put`."""
        for name, tensor in tensors:
            self.put(name, tensor, **options)

    def _put(
        self,
        name: str,
        tensor: Any,
        refuse_nan: bool,
        dim: Optional[int],
        index: Optional[int],
        count: Optional[int],
    ) -> None:
        if is_dtensor(tensor):
            if dim is not None or index is not None or count is not None:
                raise UsageError(f"tensor {name}: a DTensor knows its shard; give no dim, index and count")
            shape, part, tensor = with_name(name, lambda: local_part(tensor))
            if part is None:
                return  # Another rank gives it.
            source = with_name(name, lambda: source_of(tensor))
        else:
            source = with_name(name, lambda: source_of(tensor))
            shape, part = with_name(name, lambda: equal_part(source.shape, dim, index, count))
        if refuse_nan:
            with_name(name, lambda: refuse_nan_in(name, tensor, source))
        place = self._group.place(self.files, name, source.dtype, shape)
        self.given.add(name, part, self._rank)
        memory = self.files.memory(place)
        with_name(name, lambda: self._copier.copy(tensor, source, memory, shape, part))


@contextmanager
def named(version: str, rank: int) -> Iterator[None]:
    """Errors with the version's name, and the rank's in a trainer of several."""
    try:
        yield
    except DaemonError as error:
        where = f"version {version}" if rank == 0 else f"version {version}, rank {rank}"
        if str(error).startswith(f"version {version}"):
            raise
        text = f"{where}: {error}"
        raise type(error)(text, code=error.code, retry=error.retry, status=error.status) from error
