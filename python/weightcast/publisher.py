"""The trainer's side: hands over each new version of the weights, and has engines updated to it.

    import weightcast

    publisher = weightcast.connect()
    publisher.add_instance("engine", "http://127.0.0.1:8000", ranks=range(8))
    for step in range(steps):
        train(model)
        with publisher.version(f"step-{step}") as version:
            version.put_all(model.state_dict().items())
        publisher.update()

Needs the standard library of Python 3.9, and whatever the tensors are of. Errors are those of client_errors.py.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from typing import Any, Callable, Iterable, Optional, Sequence

from .client import Client, Update
from .client_errors import BusyError, DeadlineError, UsageError
from .publisher_files import VersionFiles
from .publisher_layout import Layout
from .publisher_start import started
from .publisher_version import Version, named

__all__ = ["Publisher", "Version", "connect"]

#: Between two tries to register while an update reads the version before.
_BUSY_SECONDS = 0.01


def connect(
    socket: Optional[str] = None,
    url: Optional[str] = None,
    token: Optional[str] = None,
    *,
    start: bool = True,
    linger: float = 60.0,
    checkpoint: str = "policy",
    serve_options: Sequence[str] = (),
    timeout: float = 60.0,
) -> "Publisher":
    """A publisher by the daemon at `socket` (by default this user's), or at `url` with its `token`; it has to be of this host.

    `start`: start `weightcast serve` with `serve_options` if there is none; it ends `linger` seconds after its last client.
    `checkpoint`: the name under which versions are registered. `timeout`: until the daemon answers, in seconds.
    """
    client = Client(socket, url, token)
    if start and url is None:
        started(client, socket, linger, serve_options, timeout)
    return Publisher(client, checkpoint)


class Publisher:
    """Made by `connect`. Of one thread."""

    def __init__(self, client: Client, checkpoint: str) -> None:
        #: What adds instances, tells the status, and so on.
        self.client = client
        self.checkpoint = checkpoint
        self.add_instance = client.add_instance
        self._directory = client.shared_directory()
        self._layout = Layout()
        self._open: Optional[Version] = None
        self._registered = False
        self._files: Optional[VersionFiles] = None

    def __enter__(self) -> "Publisher":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def version(self, name: str) -> Version:
        """A new version, to be completed before the next one is begun. `name`: for messages."""
        if self._open is not None:
            raise UsageError(f"version {self._open.name} is not completed yet; versions are published one by one")
        prefix = os.path.join(self._directory, f"{os.getpid()}-{secrets.token_hex(8)}")
        self._open = Version(name, 0, self._layout, VersionFiles(prefix), self._complete, self._abandon)
        return self._open

    def update(
        self,
        instances: Optional[Iterable[str]] = None,
        progress: Optional[Callable[..., None]] = None,
        timeout: float = 600.0,
        **options: Any,
    ) -> Update:
        """Installs the last completed version in instances, by default in all, and returns with what became of each.

        `timeout`: of the whole, in seconds. `options`: those of `Client.update`.
        """
        if not self._registered:
            raise UsageError("no version is complete yet")
        return self.client.update(self.checkpoint, instances, timeout=timeout, **options)

    async def update_async(self, *arguments: Any, **options: Any) -> Update:
        """`update`, while other tasks run."""
        return await asyncio.get_running_loop().run_in_executor(None, lambda: self.update(*arguments, **options))

    def close(self) -> None:
        """Gives back the memory of a version that is not complete. Complete ones stay. May be called twice."""
        if self._open is not None:
            self._open.__exit__(BaseException)
        if self._files is not None:
            self._files.close()
        self._files = None

    def _complete(self, version: Version, timeout: float = 3600.0) -> None:
        try:
            version.check()
            self._register(version, time.monotonic() + timeout)
        except BaseException as error:
            # Of what the daemon may still be doing nobody knows.
            self._abandon(version, isinstance(error, DeadlineError))
            raise
        self._open = None
        self._registered = True
        self._layout.is_fixed = True
        if self._files is not None:
            self._files.close()
        self._files = version.files

    def _register(self, version: Version, end: float) -> None:
        paths = version.files.seal(self._layout)
        while True:
            try:
                with named(version.name):
                    self.client.register(self.checkpoint, files=paths, timeout=max(1.0, end - time.monotonic()))
                return
            except BusyError as error:
                if time.monotonic() > end:
                    raise DeadlineError(str(error)) from error
            time.sleep(_BUSY_SECONDS)

    def _abandon(self, version: Version, keep: bool = False) -> None:
        self._open = None
        if keep:
            version.files.close()
        else:
            version.files.remove()
        if not self._layout.is_fixed:
            self._layout = Layout()
