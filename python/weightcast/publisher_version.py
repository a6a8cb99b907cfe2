"""One version while it is published."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Callable, Iterable, Iterator, Mapping, Optional, Sequence, Tuple, Union

from .client_errors import CheckpointError, DaemonError, UsageError
from .publisher_copy import Copier
from .publisher_dtensor import is_dtensor, local_part
from .publisher_files import VersionFiles
from .publisher_group import Group
from .publisher_nan import refuse_nan_in
from .publisher_parts import Given, Part, equal_part
from .tensor_files import Source, check_name, source_of, with_name

#: A tensor by its name, how its bytes are had, the shape of the whole, and the part of it that this is.
_Piece = Tuple[str, Any, Source, Sequence[int], Part]


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
        check: Callable[[], None],
        end: Callable[["Version", Optional[BaseException]], None],
    ) -> None:
        self.name = name
        self.files = files
        self.given = Given()
        self._rank = rank
        self._group = group
        self._copier = copier
        self._refuse_nan = refuse_nan
        self._check = check
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
        quantize: Optional[str] = None,
    ) -> None:
        """Copies a tensor into the version; it may be overwritten when this returns (one of a GPU by what comes later on its
        current stream).

        `tensor`: of torch (of the CPU or a GPU) or numpy, or `(dtype, shape, bytes)` with a dtype of the safetensors format and
        row-major little-endian bytes. A DTensor stands for this rank's shard of it; what is replicated is given by the first
        rank that has it. With `dim`, `index` and `count` it is one of `count` equal shards along dimension `dim` of the tensor
        of this name; any rank may give it.

        `refuse_nan`: raise if it has one; by default as the version says. `quantize`: "fp8_block" gives float8_e4m3fn in its
        place, and `NAME_scale_inv`, float32, with one scale for each block of 128 x 128 (quantize.py); a shard has to be cut at
        multiples of 128.

        Raises `CheckpointError` for another shape or dtype than in the versions before, for what was given already, and for a
        NaN; `UsageError` for what is no tensor; `HostMemoryError`, or on a device `DeviceMemoryError`. All name version and rank, and
        what is wrong with a tensor names it.
        """
        if not self._is_open:
            raise UsageError(f"version {self.name} is over: tensor {name} comes too late")
        self._check()
        refuse = self._refuse_nan if refuse_nan is None else refuse_nan
        with named(self.name, self._rank):
            check_name(name)
            shape, part, given, source = with_name(name, lambda: _part_of(tensor, dim, index, count))
            if part is None:
                return  # Another rank gives it.
            if refuse:
                with_name(name, lambda: refuse_nan_in(name, given, source))
            if quantize is None:
                self._put([(name, given, source, shape, part)])
            else:
                self._put(with_name(name, lambda: [*_quantized(quantize, name, given, shape, part)]))

    def put_all(self, tensors: Union[Mapping[str, Any], Iterable[Tuple[str, Any]]], **options: Any) -> None:
        """`put`, with its options, for each (name, tensor) of an iterator, which may make each one as it is asked for, or of a
        dict."""
        if isinstance(tensors, Mapping):
            tensors = tensors.items()
        if not hasattr(tensors, "__iter__"):
            raise UsageError(f"put_all takes pairs of name and tensor, such as model.state_dict().items(), not a {type(tensors).__name__}")
        for pair in tensors:
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise UsageError(f"put_all takes pairs of name and tensor, such as model.state_dict().items(); got a {type(pair).__name__}")
            self.put(pair[0], pair[1], **options)

    def _put(self, pieces: Iterable[_Piece]) -> None:
        """All of them, or on an error none: the memory has bytes of an earlier version, and a put may be tried again."""
        added, placed = [], []
        try:
            for name, tensor, source, shape, part in pieces:
                if name not in self._group.layout.places:
                    placed.append(name)
                place = self._group.place(self.files, name, source.dtype, shape)
                self.given.add(name, part, self._rank)
                added.append((name, part))
                memory = self.files.memory(place)
                with_name(name, lambda: self._copier.copy(tensor, source, memory, shape, part))
        except BaseException:
            for name, part in added:
                self.given.take_back(name, part)
            for name in reversed(placed):
                # It may be given once more in another form, or not at all.
                self._group.unplace(name)
            raise


def _part_of(
    tensor: Any, dim: Optional[int], index: Optional[int], count: Optional[int]
) -> Tuple[Tuple[int, ...], Optional[Part], Any, Source]:
    """The whole shape, the part that is given (None: by another rank), and it, with how its bytes are had."""
    if not is_dtensor(tensor):
        source = source_of(tensor)
        return (*equal_part(source.shape, dim, index, count), tensor, source)
    if dim is not None or index is not None or count is not None:
        raise ValueError("a DTensor knows its shard; give no dim, index and count")
    shape, part, local = local_part(tensor)
    return shape, part, local, source_of(local)


def _quantized(
    scheme: str, name: str, tensor: Any, shape: Sequence[int], part: Part
) -> Iterator[_Piece]:
    """The tensors that take the place of one."""
    from .quantize import BLOCK, quantized

    if not hasattr(tensor, "data_ptr"):
        raise ValueError("only tensors of torch are quantised")
    last = range(max(0, len(shape) - 2), len(shape))
    for dim in last:
        end = part.starts[dim] + part.lengths[dim]
        if part.starts[dim] % BLOCK != 0 or (end % BLOCK != 0 and end != shape[dim]):
            raise ValueError(f"a shard from {part.starts[dim]} to {end} along dimension {dim} cuts blocks of {BLOCK}")
    (_, values), (scales_name, scales) = quantized(scheme, name, tensor.detach())
    yield name, values, source_of(values), shape, part
    of_blocks = [-(-size // BLOCK) if dim in last else size for dim, size in enumerate(shape)]
    starts = tuple(start // BLOCK if dim in last else start for dim, start in enumerate(part.starts))
    yield scales_name, scales, source_of(scales), of_blocks, Part(starts, tuple(scales.shape))


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
