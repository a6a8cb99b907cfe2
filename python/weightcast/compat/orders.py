"""How weightcast's request to update reaches the caller's function, on every rank."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from ..client_errors import DeadlineError, EngineError
from .rank_group import RankGroup, raise_said, said_of

logger = logging.getLogger(__name__)

SocketPaths = list[tuple[str, str]]
RequestFunction = Callable[[SocketPaths], Any]

#: Beyond an update's own deadline the daemon cleans up.
_CLEANUP_SECONDS = 150.0
#: Between two looks whether all ranks' requests have been made.
_PAUSE_SECONDS = 0.005


class Orders:
    """Of one update. Rank 0 passes on what weightcast asks for; the others do it until they hear of its end."""

    def __init__(self, group: RankGroup, request: RequestFunction, ranks: Sequence[int], end: float) -> None:
        """`ranks`: whose `request` is called. `end`: of the update, by time.monotonic()."""
        self._group = group
        self._request = request
        self._ranks = ranks
        self._end = end
        self._count = 0
        #: Rank 0's own request.
        self._own: threading.Thread | None = None

    @property
    def seconds_left(self) -> float:
        return max(1.0, self._end - time.monotonic())

    def order(self, links: dict[str, str]) -> None:
        """On rank 0, when weightcast's ranks listen at these addresses: has every rank make its request.

        Raises `EngineError` with what one of them raised, as soon as one has: the requests of others end when weightcast
        aborts the update. Raises `DeadlineError` at the end of the update.
        """
        by_rank = dict(zip(self._ranks, links.items(), strict=True))
        paths = [by_rank.get(rank, (f"rank-{rank}", "")) for rank in range(self._group.size)]
        number = self._count
        self._count += 1
        self._group.say(f"order/{number}", {"paths": paths})
        if 0 in self._ranks:
            self._own = threading.Thread(target=self._make, args=(number, paths), name="weightcast-request")
            self._own.start()
        while self._group.tally(f"done/{number}", 0) < len(self._ranks):
            if self._group.tally(f"failed/{number}", 0) > 0:
                break
            if time.monotonic() > self._end:
                raise DeadlineError("not every rank's req_func has returned in time")
            time.sleep(_PAUSE_SECONDS)
        said = [self._group.hear_now(f"done/{number}", rank) for rank in self._ranks]
        failed = next((failure for failure in said if failure is not None), None)
        if failed is not None:
            raise EngineError(failed)

    def ended(self, error: BaseException | None) -> None:
        """On rank 0: tells the others how the update has ended."""
        if self._own is not None:
            self._own.join(max(0.0, self._end + _CLEANUP_SECONDS - time.monotonic()))
        self._group.say(f"order/{self._count}", {"ended": said_of(error)})

    def follow(self) -> None:
        """On every other rank. Raises what rank 0 did."""
        while True:
            said = self._group.hear(f"order/{self._count}", 0, self._end + _CLEANUP_SECONDS)
            if "ended" in said:
                return raise_said(said["ended"])
            if self._group.rank in self._ranks:
                paths = [(uuid, address) for uuid, address in said["paths"]]
                self._make(self._count, paths)
            self._count += 1

    def _make(self, number: int, paths: SocketPaths) -> None:
        """Makes the request, and says what it raised, in one line."""
        try:
            self._request(paths)
            self._group.say(f"done/{number}", None)
        except Exception as error:
            rank = self._group.rank
            logger.debug("req_func has failed on rank %d", rank, exc_info=True)
            line = " ".join(f"req_func failed on rank {rank}: {type(error).__name__}: {error}".split())
            self._group.say(f"done/{number}", line)
            self._group.tally(f"failed/{number}")
        self._group.tally(f"done/{number}")
