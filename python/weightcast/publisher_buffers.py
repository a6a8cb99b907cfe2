"""The memory of a publisher: the files of the version that is registered, and those of earlier ones that are written again."""

from __future__ import annotations

import os
from socket import gethostname
from typing import Callable, Dict, List

from .client import Client
from .client_errors import DaemonError, NotReadyError, UsageError
from .client_http import HeldConnection
from .publisher_files import VersionFiles
from .tensor_files import unlink


class Buffers:
    """Of one session with a daemon: it removes what is not registered when the session ends, however this process does."""

    def __init__(self, client: Client, on_drop: Callable[[int], None]) -> None:
        """`on_drop`: is told the number of files before they are unmapped."""
        self._on_drop = on_drop
        self._client = client
        self._connection: HeldConnection = client.hold_session()
        self.session: str = self._connection.first["session"]
        self.directory: str = self._connection.first["shared_directory"]
        if not os.access(self.directory, os.W_OK | os.X_OK):
            self._connection.close()
            raise UsageError(
                f"a publisher writes to {self.directory} of the daemon's host, which is not on host {gethostname()}, or not this "
                "user's: publish on that host, or write files and register them"
            )
        self._files: Dict[int, VersionFiles] = {}
        self._registered: int | None = None
        #: Paths of what the daemon may have, and is not written again.
        self._forgotten: List[str] = []
        self._last = 0

    @property
    def is_alive(self) -> bool:
        """Whether the daemon that has the memory is there."""
        return self._connection.is_alive

    def path(self, name: str) -> str:
        """Of a file that goes with the session."""
        return os.path.join(self.directory, f"session-{self.session}-{name}")

    def check_alive(self) -> None:
        """Raises `NotReadyError`."""
        if not self.is_alive:
            raise NotReadyError("the daemon is gone", retry=True)

    def take(self, end: float) -> VersionFiles:
        """Files to write a version to: those of an earlier one that nobody reads any more, or new ones. `end`: on
        `time.monotonic()`."""
        self.check_alive()
        for files in [*self._files.values()]:
            if files.number == self._registered:
                continue
            if files.are_gone or not files.is_whole:
                self.drop(files)
            elif files.try_lock():
                files.stamp()
                return files
        self._last += 1
        return self.make(self._last)

    def make(self, number: int, session: str | None = None) -> VersionFiles:
        """Those of a number: of this process's session, or of another one's, whose files it writes with others."""
        files = self._files.get(number)
        if files is None:
            prefix = os.path.join(self.directory, f"session-{session or self.session}-{number}")
            files = self._files[number] = VersionFiles(prefix, number)
        return files

    def registered(self, files: VersionFiles, checkpoint: str) -> None:
        """The daemon has these now, as `checkpoint`; those before are free, and those that were forgotten go."""
        self._registered = files.number
        if not self._forgotten:
            return
        try:
            known = self._client.checkpoint_files(checkpoint)
        except DaemonError:
            # At the next version.
            return
        for path in self._forgotten:
            if known is None or path not in known["files"]:
                unlink(path)
        self._forgotten.clear()

    def drop(self, files: VersionFiles, made: int = 0) -> None:
        """They are not written again. Nothing happens if they were forgotten. `made`: as for `VersionFiles.remove`."""
        if self._files.pop(files.number, None) is None:
            return
        self._on_drop(files.number)
        if files.number == self._registered:
            files.close()
        else:
            files.remove(made)

    def forget(self, files: VersionFiles) -> None:
        """As `drop`, but the daemon may have them: they go after a later registration, or with the session."""
        self._on_drop(files.number)
        self._files.pop(files.number, None)
        self._forgotten += files.paths
        files.close()

    def forget_gone(self) -> None:
        """What another rank has dropped."""
        for files in [*self._files.values()]:
            if files.are_gone:
                self.forget(files)

    def close(self) -> None:
        """What is registered stays with the daemon, which removes the rest. May be called twice."""
        for files in [*self._files.values()]:
            self.forget(files)
        self._connection.close()
