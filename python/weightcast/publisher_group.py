"""Who publishes a version: one process, or the ranks of a distributed trainer (publisher_ranks.py)."""

from __future__ import annotations

from typing import Callable, List, Optional, Sequence, Tuple

from .publisher_buffers import Buffers
from .publisher_files import VersionFiles
from .publisher_layout import Layout, Place
from .publisher_parts import Given, Part

#: A rank's share: tensors with the part of each that it has given.
Share = List[Tuple[str, Part]]


class Group:
    """A trainer of one process."""

    def __init__(self, buffers: Buffers, layout: Layout) -> None:
        self.buffers = buffers
        self.layout = layout
        #: Of the version that was begun last.
        self._files: Optional[VersionFiles] = None

    def begin(self, version: str, end: float) -> VersionFiles:
        """Where a version is written. `end`: on `time.monotonic()`, until when others are waited for."""
        self._files = None
        self._files = self.buffers.take(end)
        return self._files

    def place(self, files: VersionFiles, name: str, dtype: str, shape: Sequence[int]) -> Place:
        """The place of a tensor, with its memory."""
        known = name in self.layout.places
        place = self.layout.place(name, dtype, shape)
        if not known or not files.is_whole:
            files.reserve(place)
        return place

    def unplace(self, name: str) -> None:
        """The tensor that was placed last was not given after all. Nothing happens if it has no place."""
        self.layout.take_back(name)

    def complete(self, given: Given, finish: Callable[[Given], None], end: float) -> None:
        """Returns when the version is registered: `finish` does so, in one rank, with what all ranks have given."""
        finish(given)

    def abandon(self, error: BaseException) -> None:
        """The version is given up because of that."""
        if not self.layout.is_fixed:
            self.layout.clear()
            if self._files is not None:
                # They may have headers already, of a layout that the next version need not have.
                self.buffers.drop(self._files)

    def close(self) -> None:
        """May be called twice."""
        self.buffers.close()
