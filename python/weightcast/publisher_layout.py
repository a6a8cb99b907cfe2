"""Where the tensors of a version lie: the layout, which is the same for all versions of a publisher.

A version is a few safetensors files. Their headers have room for the tensors that come, so that a tensor has its place as soon
as it is known by name, dtype and shape, before the others are.
"""

from __future__ import annotations

import json
import math
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from .client_errors import CheckpointError, UsageError

#: Bytes in front of the tensors of each file: its header, for a few hundred tensors, and eight bytes of its length.
HEADER_ROOM = 1 << 16
#: A file takes no further tensors beyond this, unless its layout says otherwise.
FILE_BYTES = 4 << 30
#: The newest files, in which a tensor may find room: one for each size of an element, and then some.
_OPEN_FILES = 8

#: Bytes of one element, by safetensors' names.
ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("C64", "F64", "I64", "U64"), 8),
}


class Place(NamedTuple):
    #: Of the safetensors format.
    dtype: str
    shape: Tuple[int, ...]
    #: Index of the file.
    file: int
    #: In bytes, from the file's begin.
    offset: int
    nbytes: int


class _File:
    """What a file has taken so far."""

    def __init__(self, metadata_bytes: int) -> None:
        self.end = HEADER_ROOM
        self.header = 2 + metadata_bytes
        self.names: List[str] = []


class Layout:
    """Gives each tensor its place, and checks later versions against it."""

    def __init__(self, file_bytes: int = FILE_BYTES, metadata_bytes: int = 0) -> None:
        """`file_bytes`: a file takes no further tensors beyond this. `metadata_bytes`: of its header, for metadata."""
        self._file_bytes = file_bytes
        self._metadata_bytes = metadata_bytes
        self.places: Dict[str, Place] = {}
        self._files: List[_File] = []
        #: From the first completed version on no tensor is added.
        self.is_fixed = False

    def clear(self) -> None:
        """What was placed for a version that was abandoned, before any was complete."""
        self.places.clear()
        self._files.clear()

    @property
    def file_bytes(self) -> List[int]:
        return [file.end for file in self._files]

    def place(self, name: str, dtype: str, shape: Sequence[int]) -> Place:
        """The tensor's place: a new one, if it is the first of its name. Raises `CheckpointError` if it had another form."""
        known = self.places.get(name)
        if known is not None:
            if (known.dtype, known.shape) != (dtype, tuple(shape)):
                raise CheckpointError(
                    f"tensor {name} is {_form(dtype, shape)}, and was {_form(known.dtype, known.shape)} before"
                )
            return known
        if self.is_fixed:
            raise CheckpointError(
                f"tensor {name} was in no version before; close this publisher and connect again for other tensors"
            )
        place = self._new_place(name, dtype, tuple(int(size) for size in shape))
        self.add(name, place)
        return place

    def add(self, name: str, place: Place) -> None:
        """A tensor whose place is known."""
        while len(self._files) <= place.file:
            self._files.append(_File(self._metadata_bytes))
        file = self._files[place.file]
        file.end = max(file.end, place.offset + place.nbytes)
        file.header += _entry_bytes(name, place.shape)
        file.names.append(name)
        self.places[name] = place

    def take_back(self, name: str) -> None:
        """The tensor that came last, before any version is complete. Nothing happens if it has no place."""
        place = self.places.pop(name, None)
        if place is None:
            return
        file = self._files[place.file]
        assert file.names[-1] == name and file.end == place.offset + place.nbytes
        file.names.pop()
        file.end = place.offset
        file.header -= _entry_bytes(name, place.shape)
        if not file.names:
            self._files.pop()

    def header(self, index: int, metadata: Optional[Mapping[str, str]] = None) -> bytes:
        """The first `HEADER_ROOM` bytes of a file."""
        entries: Dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
        for name in self._files[index].names:
            dtype, shape, _, offset, nbytes = self.places[name]
            begin = offset - HEADER_ROOM
            entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, begin + nbytes]}
        text = json.dumps(entries, separators=(",", ":")).encode()
        length = HEADER_ROOM - 8
        return length.to_bytes(8, "little") + text + b" " * (length - len(text))

    def _new_place(self, name: str, dtype: str, shape: Tuple[int, ...]) -> Place:
        item = ITEM_BYTES.get(dtype)
        if item is None:
            raise UsageError(f"tensor {name}: a publisher takes no dtype {dtype}")
        nbytes = math.prod(shape) * item
        entry = _entry_bytes(name, shape)
        if entry > HEADER_ROOM - 10:
            raise UsageError(f"tensor {name[:100]}…: its name has {len(name)} characters")
        for index in range(max(0, len(self._files) - _OPEN_FILES), len(self._files)):
            file = self._files[index]
            # Elements are aligned, and the format has no holes.
            if file.end % item == 0 and self._has_room(file, entry, nbytes):
                return Place(dtype, shape, index, file.end, nbytes)
        return Place(dtype, shape, len(self._files), HEADER_ROOM, nbytes)

    def _has_room(self, file: _File, entry: int, nbytes: int) -> bool:
        return file.header + entry <= HEADER_ROOM - 8 and file.end + nbytes <= HEADER_ROOM + self._file_bytes


def missing_in(layout: Layout, given: Sequence[str]) -> Optional[str]:
    """A tensor of the layout that is not among those; None if there is none."""
    names = set(given)
    return next((name for name in layout.places if name not in names), None)


def _entry_bytes(name: str, shape: Sequence[int]) -> int:
    """At most so many bytes of a header."""
    return len(json.dumps(name)) + len(str(list(shape))) + 96


def _form(dtype: str, shape: Sequence[int]) -> str:
    return f"{dtype} {list(shape)}"
