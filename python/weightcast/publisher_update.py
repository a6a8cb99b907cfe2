"""Updates that are followed by their events, and cancelled."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Callable, Dict, Iterable, Optional

from .client import Client, Update
from .client_errors import DaemonError, DeadlineError, NotReadyError
from .client_results import Progress

Notify = Callable[[Progress], None]

#: Between two looks when events cannot be had.
_PAUSE_SECONDS = 0.2
#: Beyond its own deadline the daemon cleans up, and resumes engines.
_CLEANUP_SECONDS = 120.0


def followed_update(
    client: Client,
    checkpoint: str,
    progress: Optional[Notify],
    instances: Optional[Iterable[str]],
    timeout: float,
    options: Dict[str, Any],
    begun: Optional[Callable[[str], None]] = None,
) -> Update:
    """Returns when it has ended. `begun`: is told its id."""
    update = client.update(checkpoint, instances, wait=False, timeout=timeout, **options)
    if begun is not None:
        begun(update.id)
    end = time.monotonic() + timeout + _CLEANUP_SECONDS
    while update.state == "running":
        if time.monotonic() > end:
            raise DeadlineError(f"the daemon has not ended update {update.id} {_CLEANUP_SECONDS:g} s after its deadline")
        _follow(client, update.id, progress, end)
        update = client.update_status(update.id)
    if update.error is not None:
        raise update.error
    return update


def _follow(client: Client, update: str, progress: Optional[Notify], end: float) -> None:
    """Until it has ended, or `end` on `time.monotonic()` has come; for a moment if there are no events."""
    try:
        for event in client.events(update, timeout=end - time.monotonic()):
            data = event.data
            if event.type == "progress" and progress is not None:
                progress(Progress(data["activity"], data["done_bytes"], data["total_bytes"]))
    except NotReadyError:
        raise
    except DaemonError:
        # It has too many streams of events already, or the time is over.
        time.sleep(_PAUSE_SECONDS)


async def update_in_thread(
    client: Client,
    checkpoint: str,
    progress: Optional[Notify],
    instances: Optional[Iterable[str]],
    timeout: float,
    options: Dict[str, Any],
) -> Update:
    """When its task is cancelled, so is the update."""
    loop = asyncio.get_running_loop()
    cancelling = _Cancelling(client)
    notify = None if progress is None else lambda done: loop.call_soon_threadsafe(progress, done)
    # Threads of its own: the loop's may all wait for updates, and then none of these could be cancelled.
    threads = ThreadPoolExecutor(2, "weightcast-update")
    running = loop.run_in_executor(
        threads,
        lambda: followed_update(client, checkpoint, notify, instances, timeout, options, cancelling.begun),
    )
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        with suppress(DaemonError):
            # A daemon that does not answer changes nothing about this task's being cancelled.
            await loop.run_in_executor(threads, cancelling.cancel)
        # Its end is that of a cancelled update.
        await asyncio.wait([running])
        if not running.cancelled():
            running.exception()
        raise
    finally:
        threads.shutdown(wait=False)


class _Cancelling:
    """An update that may be cancelled before its id is known."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._id: Optional[str] = None
        self._is_cancelled = False

    def begun(self, update: str) -> None:
        with self._lock:
            self._id = update
            is_cancelled = self._is_cancelled
        if is_cancelled:
            self._client.cancel_update(update)

    def cancel(self) -> None:
        with self._lock:
            self._is_cancelled = True
            update = self._id
        if update is not None:
            self._client.cancel_update(update)
