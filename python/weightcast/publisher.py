"""The trainer's side: hands over each new version of the weights, and has engines updated to it.

    import weightcast

    publisher = weightcast.connect()
    publisher.add_instance("engine", "http://127.0.0.1:8000", ranks=range(8))
    for step in range(steps):
        train(model)
        with publisher.version(f"step-{step}") as version:
            version.put_all(model.state_dict().items())
        publisher.update()

Needs the standard library of Python 3.10, and whatever the tensors are of. Errors are those of client_errors.py.
"""

from __future__ import annotations

import os
import time
from typing import Any, Callable, Iterable, Iterator, Optional, Sequence, Tuple, Union

from .client import Client, Update
from .client_checks import count_of, name_of, seconds_of
from .client_errors import BusyError, DeadlineError, NotReadyError, UsageError
from .client_results import Progress
from .publisher_buffers import Buffers
from .publisher_copy import Copier
from .publisher_device import DeviceBuffers, device_layout
from .publisher_files import VersionFiles
from .publisher_group import Group
from .publisher_layout import Layout
from .publisher_memory import device_memory
from .publisher_parts import Given
from .publisher_ranks import RankGroup
from .publisher_receive import receive
from .publisher_start import started
from .publisher_update import followed_update, update_in_thread
from .publisher_version import Version, named

__all__ = ["Publisher", "Version", "connect"]

#: Between two tries to register while an update reads the version before: the first, doubled up to the most.
_FIRST_BUSY_SECONDS = 0.005
_MOST_BUSY_SECONDS = 0.1

#: How often this process was forked from another one since this module was imported. To ask the system at each tensor who this
#: is takes longer.
_forks = 0


def _forked() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_forked)


def connect(
    socket: Optional[str] = None,
    url: Optional[str] = None,
    token: Optional[str] = None,
    *,
    start: bool = True,
    linger: float = 60.0,
    checkpoint: str = "policy",
    rank: int = 0,
    world_size: int = 1,
    serve_options: Sequence[str] = (),
    copy_threads: Optional[int] = None,
    on_device: Union[bool, int, str] = False,
    timeout: float = 60.0,
) -> "Publisher":
    """A publisher by the daemon at `socket` (by default this user's), or at `url` with its `token`; it has to be of this host.

    `start`: start `weightcast serve` with `serve_options` if there is none; it ends `linger` seconds after its last client.
    `checkpoint`: the name under which versions are registered. `rank`, `world_size`: of a distributed trainer on this host,
    each of whose ranks gives its share from a process of its own; rank 0 completes versions and updates. `copy_threads`: that
    copy a large tensor together; by default as many as there are cores for this process, at most 8. `timeout`: until the daemon
    and rank 0 answer, and for how long a version waits for ranks that have not connected yet, in seconds.

    `on_device`: versions stay in the memory of a GPU (True: torch's current one; or its index), from which an engine's rank on
    the same GPU copies them; each is there until the next one is begun, or this publisher ends, and no other host reads it.
    """
    name_of("checkpoint", checkpoint)
    timeout, linger = seconds_of("timeout", timeout), seconds_of("linger", linger)
    if copy_threads is not None:
        count_of("copy_threads", copy_threads, 1)
    if not 0 <= count_of("rank", rank, 0) < count_of("world_size", world_size, 1):
        raise UsageError(f"rank is {rank}, and world_size {world_size}; ranks are 0 to world_size - 1")
    if on_device is not False and world_size > 1:
        raise UsageError("on_device is for a trainer of one rank; ranks of several give their shares to host memory")
    memory = None if on_device is False else device_memory(on_device)
    client = Client(socket, url, token)

    def find() -> None:
        if url is None:
            started(client, socket, linger if start else None, rank, serve_options, timeout)

    return Publisher(client, checkpoint, rank, world_size, timeout, copy_threads, find, memory)


class Publisher:
    """Made by `connect`. Of one thread."""

    def __init__(
        self,
        client: Client,
        checkpoint: str,
        rank: int = 0,
        world_size: int = 1,
        timeout: float = 60.0,
        copy_threads: Optional[int] = None,
        find: Callable[[], None] = lambda: None,
        memory: Any = None,
    ) -> None:
        """`find`: returns when there is a daemon, or raises. `memory`: where versions are, if not in that of the host."""
        #: What adds instances, tells the status, and so on.
        self.client = client
        self.checkpoint = checkpoint
        self.rank = rank
        self.world_size = world_size
        self.add_instance = client.add_instance
        self._timeout = timeout
        self._find = find
        self._memory = memory
        self._copier = Copier(copy_threads)
        self._process = os.getpid()
        self._forks = _forks
        self._group: Optional[Group] = self._join()
        self._open: Optional[Version] = None

    def __enter__(self) -> "Publisher":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def version(self, name: str, *, refuse_nan: bool = False, timeout: float = 3600.0) -> Version:
        """A new version, to be completed before the next one is begun; all ranks begin the same ones in the same order.

        `name`: for messages, and for `receive`. `refuse_nan`: of every tensor, unless `put` says otherwise. `timeout`: until
        other ranks have begun and given theirs and the daemon has registered it, in seconds.
        """
        self._check_process()
        name_of("version", name)
        end = time.monotonic() + seconds_of("timeout", timeout)
        if self._open is not None:
            raise UsageError(
                f"version {self._open.name} is not completed yet (it ends with its `with` block, or by abandon()); versions are published one by one"
            )
        if self._group is None:
            raise UsageError("the publisher is closed")
        if not self._group.buffers.is_alive:
            # The one that comes after has other memory.
            self._group.close()
            self._group = self._join()
        files = self._begin(name, self._group, end)

        def ended(version: Version, error: Optional[BaseException]) -> None:
            self._end(version, error, end)

        self._open = Version(name, self.rank, self._group, files, self._copier, refuse_nan, self._check_process, ended)
        return self._open

    def update(
        self,
        instances: Optional[Iterable[str]] = None,
        progress: Optional[Callable[[Progress], None]] = None,
        timeout: float = 600.0,
        **options: Any,
    ) -> Update:
        """Installs the last completed version in instances, by default in all, and returns with what became of each.

        `progress`: is called several times a second with bytes done and in all. `timeout`: of the whole, in seconds.
        `options`: those of `Client.update`. Only rank 0 updates.
        """
        self._check_update()
        timeout = seconds_of("timeout", timeout)
        if progress is not None:
            return followed_update(self.client, self.checkpoint, progress, instances, timeout, options)
        return self.client.update(self.checkpoint, instances, timeout=timeout, **options)

    async def update_async(
        self,
        instances: Optional[Iterable[str]] = None,
        progress: Optional[Callable[[Progress], None]] = None,
        timeout: float = 600.0,
        **options: Any,
    ) -> Update:
        """`update`, while other tasks run. Cancelling its task cancels the update: engines that are whole are resumed, and none
        is updated further; the task ends when that is done. `progress` is called in the thread of the event loop."""
        self._check_update()
        timeout = seconds_of("timeout", timeout)
        return await update_in_thread(self.client, self.checkpoint, progress, instances, timeout, options)

    def receive(self, version: Optional[str] = None, timeout: float = 600.0) -> Iterator[Tuple[str, Any]]:
        """The tensors of a completed version, by default of the last one, each with its name, for frameworks that load
        themselves; in any process of this host. Waits for the version until `timeout`, in seconds.

        They are tensors of torch, on the CPU, in shared memory: not to be written, and valid until the next one is asked for.
        Without torch, `(dtype, shape, bytes)`. Raises `DeadlineError`, also for a version that was replaced before.
        """
        return receive(self.client, self.checkpoint, version, seconds_of("timeout", timeout))

    def close(self) -> None:
        """Gives back memory, but for that of the last completed version, which stays with the daemon unless it is on a device.
        May be called twice."""
        if self._is_forked:
            # What is open is that of the process before the fork.
            return
        if self._open is not None:
            self._open.abandon("the publisher was closed")
        self._copier.close()
        if self._group is not None:
            self._group.close()
        self._group = None

    def _join(self) -> Group:
        self._find()
        # Of an earlier trainer, or of an earlier daemon.
        self._is_registered = self.client.checkpoint_files(self.checkpoint) is not None
        try:
            buffers = self._buffers()
        except NotReadyError:
            # It has just ended, after its last client.
            self._find()
            buffers = self._buffers()
        try:
            if self.world_size == 1:
                return Group(buffers, Layout() if self._memory is None else device_layout())
            return RankGroup(buffers, Layout(), self.checkpoint, self.rank, self.world_size, self._timeout)
        except BaseException:
            buffers.close()
            raise

    def _buffers(self) -> Buffers:
        if self._memory is None:
            return Buffers(self.client, self._copier.forget)
        return DeviceBuffers(self.client, self._copier.forget, self.checkpoint, self._memory)

    def _begin(self, name: str, group: Group, end: float) -> VersionFiles:
        files = None
        try:
            with named(name, self.rank):
                files = group.begin(name, end)
                self._copier.begin(files)
            return files
        except BaseException as error:
            # Other ranks wait for this one.
            group.abandon(error)
            if files is not None:
                files.unlock()
            raise

    @property
    def _is_forked(self) -> bool:
        return self._forks != _forks

    def _check_process(self) -> None:
        if self._is_forked:
            raise UsageError(f"this publisher is of process {self._process}, from which this one was forked: connect again here")

    def _check_update(self) -> None:
        if self.rank != 0:
            raise UsageError(f"rank {self.rank} cannot update; rank 0 does")
        if not self._is_registered:
            raise UsageError("no version is complete yet")

    def _end(self, version: Version, error: Optional[BaseException], end: float) -> None:
        if self._is_forked:
            # A child that leaves the block has written nothing, and the version goes on in its parent.
            return
        self._open = None
        group = self._group
        assert group is not None
        try:
            self._copier.finish()
            if error is None:
                with named(version.name, self.rank):
                    group.complete(version.given, lambda given: self._register(version, given, end), end)
                self._is_registered = True
                return
        except BaseException as failure:
            error = failure
            raise
        finally:
            if error is not None:
                group.abandon(error)
            version.files.unlock()

    def _register(self, version: Version, given: Given, end: float) -> None:
        group = self._group
        assert group is not None
        given.check(group.layout.places)
        paths = version.files.finish(group.layout)
        version.files.unlock()
        pause = _FIRST_BUSY_SECONDS
        while True:
            seconds = max(1.0, end - time.monotonic())
            try:
                self.client.register(self.checkpoint, files=paths, version=version.name, timeout=seconds)
                group.layout.is_fixed = True
                group.buffers.registered(version.files, self.checkpoint)
                return
            except BusyError as error:
                if time.monotonic() > end:
                    raise DeadlineError(str(error)) from error
            except BaseException:
                # Of what the daemon may have done, or still be doing, nobody knows: they are not written again.
                group.buffers.forget(version.files)
                raise
            time.sleep(pause)
            pause = min(2 * pause, _MOST_BUSY_SECONDS)
