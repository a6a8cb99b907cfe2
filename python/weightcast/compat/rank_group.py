"""What the ranks of a torchrun group tell each other, through a store of torch."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch.distributed

from ..client_errors import DaemonError, DeadlineError, PeerLostError, error_of

#: That rank 0 may take to be there.
_MEET_SECONDS = 600.0


class RankGroup:
    """All ranks make the same calls in the same order, but for those between `say` and `hear`. Values are those of JSON.

    A store serves one thread at a time, also while that waits. Raises `DeadlineError` that names the rank that said
    nothing, and `PeerLostError` when rank 0 is gone.
    """

    def __init__(self, rank: int, size: int, address: str, port: int) -> None:
        self.rank = rank
        self.size = size
        within = timedelta(seconds=_MEET_SECONDS)
        self._store = self._tried(
            f"rank 0 at {address}:{port}",
            _MEET_SECONDS,
            lambda: torch.distributed.TCPStore(address, port, size, is_master=rank == 0, timeout=within),
        )
        self._rounds = 0
        #: What this rank has said since the last gather: nobody reads it after the next.
        self._said: list[str] = []

    def prefixed(self, name: str) -> torch.distributed.Store:
        """A store of its own for torch."""
        return torch.distributed.PrefixStore(name, self._store)

    def gather(self, value: Any, seconds: float) -> list[Any]:
        """What each rank gave, by rank. Returns when all have."""
        self._rounds += 1
        before, self._said = self._said, []
        self._set(f"gather/{self._rounds}/{self.rank}", value)
        end = time.monotonic() + seconds
        values = [self._get(f"gather/{self._rounds}/{rank}", rank, end) for rank in range(self.size)]
        for key in before:
            self._store.delete_key(key)
        return values

    def by_first(self, work: Callable[[], Any], seconds: float) -> Any:
        """What `work` returns on rank 0, on all ranks; they raise what it raised there."""
        value, error = None, None
        if self.rank == 0:
            try:
                value = work()
            except DaemonError as failure:
                error = failure
        value, said = self.gather([value, said_of(error)], seconds)[0]
        if error is not None:
            raise error
        raise_said(said)
        return value

    def say(self, what: str, value: Any) -> None:
        """For any rank that hears it before the next gather."""
        self._set(f"say/{self._rounds}/{what}/{self.rank}", value)

    def hear(self, what: str, rank: int, end: float) -> Any:
        """What a rank says, now or until `end`, by time.monotonic()."""
        return self._get(f"say/{self._rounds}/{what}/{rank}", rank, end)

    def hear_now(self, what: str, rank: int) -> Any:
        """What a rank has said; None if it has said nothing."""
        key = f"say/{self._rounds}/{what}/{rank}"
        return json.loads(self._store.get(key)) if self._store.check([key]) else None

    def tally(self, what: str, by: int = 1) -> int:
        """Adds to what all ranks have counted since the last gather; the sum."""
        key = f"tally/{self._rounds}/{what}"
        if self.rank == 0 and key not in self._said:
            self._said.append(key)
        return self._store.add(key, by)

    def _set(self, key: str, value: Any) -> None:
        self._store.set(key, json.dumps(value))
        self._said.append(key)

    def _get(self, key: str, rank: int, end: float) -> Any:
        seconds = max(0.0, end - time.monotonic())

        def read() -> bytes:
            self._store.wait([key], timedelta(seconds=seconds))
            return self._store.get(key)

        return json.loads(self._tried(f"rank {rank}", seconds, read))

    def _tried(self, who: str, seconds: float, work: Any) -> Any:
        try:
            return work()
        except torch.distributed.DistStoreError as error:
            raise DeadlineError(f"rank {self.rank} did not hear from {who} within {seconds:.0f} s") from error
        except torch.distributed.DistError as error:
            raise PeerLostError(
                f"rank {self.rank} has lost rank 0, which holds the group together"
            ) from error


def said_of(error: BaseException | None) -> list[str] | None:
    """An error as other ranks are told of it."""
    if error is None:
        return None
    code = error.code if isinstance(error, DaemonError) else DaemonError.code
    return [code, str(error) or type(error).__name__]


def raise_said(said: list[str] | None) -> None:
    if said is not None:
        raise error_of(said[0], said[1])
