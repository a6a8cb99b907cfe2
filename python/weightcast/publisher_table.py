"""What the ranks of a trainer tell each other: a file that each of them appends lines to, under a lock."""

from __future__ import annotations

import fcntl
import json
import os
import time
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator

from .client_errors import DeadlineError, PeerLostError
from .publisher_files import opened

#: Between two looks whether others have written: the first, doubled up to the most.
_FIRST_PAUSE_SECONDS = 0.0005
_MOST_PAUSE_SECONDS = 0.02

Record = Dict[str, Any]


class Table:
    """Records, in one order for all ranks. `heard` is told each of them, one's own too, when this process reads it."""

    def __init__(self, path: str, heard: Callable[[Record], None]) -> None:
        """Makes the file if it is not there."""
        self.path = path
        self._heard = heard
        self._descriptor = opened(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self._read = 0

    @property
    def is_gone(self) -> bool:
        """Whether the rank that made it has ended: the daemon has removed the file."""
        return os.fstat(self._descriptor).st_nlink == 0

    @contextmanager
    def locked(self) -> Iterator[None]:
        """All that others have written is read, and nobody else writes."""
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            self.look()
            yield
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def tell(self, record: Record) -> None:
        with self.locked():
            self.append(record)

    def append(self, record: Record) -> None:
        """Within `locked`."""
        os.write(self._descriptor, json.dumps(record).encode() + b"\n")
        self.look()

    def look(self) -> None:
        """Reads what is new."""
        size = os.fstat(self._descriptor).st_size
        if size == self._read:
            return
        data = os.pread(self._descriptor, size - self._read, self._read)
        # A line that is being written is read the next time.
        data = data[: data.rfind(b"\n") + 1]
        self._read += len(data)
        for line in data.splitlines():
            self._heard(json.loads(line))

    def wait(self, is_there: Callable[[], bool], end: float, words: Callable[[], str]) -> None:
        """Until others have written what `is_there` looks for. Raises `PeerLostError` when rank 0 has ended, and
        `DeadlineError` with `words`."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            self.look()
            if is_there():
                return
            if self.is_gone:
                raise PeerLostError("rank 0 has ended", retry=True)
            if time.monotonic() > end:
                raise DeadlineError(words())
            time.sleep(pause)
            pause = min(2 * pause, _MOST_PAUSE_SECONDS)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1
