"""How weightcast's request to update reaches the caller's function, on every rank."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from ..client_errors import EngineError
from .rank_group import RankGroup, raise_said, said_of

logger = logging.getLogger(__name__)

SocketPaths = list[tuple[str, str]]
RequestFunction = Callable[[SocketPaths], Any]

#: Beyond an update's own deadline the daemon cleans up.
_CLEANUP_SECONDS = 150.0


class Orders:
    """Of one update. Rank 0 passes on what weightcast asks for; the others do it until they hear that the update has ended."""

    def __init__(self, group: RankGroup, request: RequestFunction, ranks: Sequence[int], end: float) -> None:
        """`ranks`: whose `request` is called. `end`: of the update, by time.monotonic()."""
        self._group = group
        self._request = request
        self._ranks = ranks
        self._end = end
        self._count = 0

    @property
    def seconds_left(self) -> float:
        return max(1.0, self._end - time.monotonic())

    def order(self, links: dict[str, str]) -> None:
        """On rank 0, when weightcast's ranks listen at these addresses: has every rank make its request.

        Raises `EngineError` with what one of them raised, and as `RankGroup.hear`.
        """
        by_rank = dict(zip(self._ranks, links.items(), strict=True))
        paths = [by_rank.get(rank, (f"rank-{rank}", "")) for rank in range(self._group.size)]
        number = self._count
        self._count += 1
        self._group.say(f"order/{number}", {"paths": paths})
        failures = [self._tried(paths)] if 0 in self._ranks else []
        failures += [self._group.hear(f"done/{number}", rank, self._end) for rank in self._ranks if rank != 0]
        failed = next((failure for failure in failures if failure is not None), None)
        if failed is not None:
            raise EngineError(failed)

    def ended(self, error: BaseException | None) -> None:
        """On rank 0: tells the others how the update has ended."""
        self._group.say(f"order/{self._count}", {"ended": said_of(error)})

    def follow(self) -> None:
        """On every other rank. Raises what rank 0 did."""
        while True:
            said = self._group.hear(f"order/{self._count}", 0, self._end + _CLEANUP_SECONDS)
            if "ended" in said:
                return raise_said(said["ended"])
            if self._group.rank in self._ranks:
                paths = [(uuid, address) for uuid, address in said["paths"]]
                self._group.say(f"done/{self._count}", self._tried(paths))
            self._count += 1

    def _tried(self, paths: SocketPaths) -> str | None:
        """Makes the request; what it raised, in one line."""
        try:
            self._request(paths)
            return None
        except Exception as error:
            rank = self._group.rank
            logger.exception("req_func has failed on rank %d", rank)
            return " ".join(f"req_func failed on rank {rank}: {type(error).__name__}: {error}".split())
