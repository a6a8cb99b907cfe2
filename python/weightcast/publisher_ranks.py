"""The ranks of a distributed trainer, on one host, each in a process of its own, that write one version together.

Rank 0 says where a version is written, learns what each rank has given, and completes it. All is said in a table
(publisher_table.py) in the daemon's shared memory, which goes with rank 0; each other rank has a file that goes with it.
"""

from __future__ import annotations

import glob
import hashlib
import os
import time
from socket import gethostname
from typing import Callable, Dict, List, Optional, Sequence, Tuple

from .client_errors import CheckpointError, DaemonError, DeadlineError, PeerLostError, UsageError, error_of
from .publisher_buffers import Buffers
from .publisher_files import VersionFiles, opened
from .publisher_group import Group, Share
from .publisher_layout import Layout, Place
from .publisher_parts import Given, Part
from .publisher_table import Record, Table

_PAUSE_SECONDS = 0.02


class RankGroup(Group):
    """One rank of several. Raises `UsageError` if another trainer publishes this checkpoint."""

    def __init__(
        self, buffers: Buffers, layout: Layout, checkpoint: str, rank: int, world_size: int, timeout: float
    ) -> None:
        """`timeout`: until rank 0 is there, and at the end of a version all others, in seconds."""
        super().__init__(buffers, layout)
        self._rank = rank
        self._world_size = world_size
        self._key = hashlib.sha256(checkpoint.encode()).hexdigest()[:12]
        self._number = 0
        self._begun: Dict[int, Record] = {}
        self._shares: Dict[int, Share] = {}
        self._given: Dict[int, Share] = {}
        self._failed: Dict[int, Tuple[int, str]] = {}
        self._ended: Dict[int, Record] = {}
        self._members: Dict[int, str] = {}
        self._checkpoint = checkpoint
        self._member = buffers.path(f"rank-{self._key}-{rank}")
        os.close(opened(self._member, os.O_WRONLY | os.O_CREAT))
        self._timeout = timeout
        self._table = self._joined(time.monotonic() + timeout)

    def begin(self, version: str, end: float) -> VersionFiles:
        # Others may be ahead, or behind.
        self._begun.pop(self._number, None)
        self._ended.pop(self._number, None)
        self._failed.pop(self._number, None)
        self._number += 1
        self._given = {}
        self._files = None
        if self._rank == 0:
            files = self.buffers.take(end)
            session = self.buffers.session
            self._table.tell(
                {
                    "begin": self._number,
                    "version": version,
                    "session": session,
                    "files": files.number,
                    "whole": files.is_whole,
                }
            )
        else:
            try:
                files = self._begun_by_other(version, end)
            except PeerLostError:
                if self._number > 1:
                    raise
                # That of a trainer before, which was just going.
                before, self._table = self._table, self._joined(end)
                before.close()
                files = self._begun_by_other(version, end)
        self._files = files
        return files

    def place(self, files: VersionFiles, name: str, dtype: str, shape: Sequence[int]) -> Place:
        if name in self.layout.places and files.is_whole:
            return self.layout.place(name, dtype, shape)
        with self._table.locked():
            self._check_goes_on()
            known = name in self.layout.places
            place = self.layout.place(name, dtype, shape)
            # Files that are not whole are new for each tensor of each version.
            files.reserve(place)
            if not known:
                self._table.append({"place": name, "at": list(place)})
        return place

    def unplace(self, name: str) -> None:
        """Other ranks know of it already, and may give their part."""

    def complete(self, given: Given, finish: Callable[[Given], None], end: float) -> None:
        share = given.of_rank(self._rank)
        if self._rank != 0:
            is_same = self._shares.get(self._rank) == share
            self._table.tell({"share": self._number, "rank": self._rank, **({} if is_same else {"parts": share})})
            self._await_end(end)
            return
        self._await_shares(end)
        for rank, others in self._given.items():
            for name, part in others:
                given.add(name, part, rank)
        finish(given)
        self._table.tell({"end": self._number, "error": None})

    def abandon(self, error: BaseException) -> None:
        if self._number in self._ended:
            return
        code = error.code if isinstance(error, DaemonError) else CheckpointError.code
        reason = " ".join(str(error).split()) or type(error).__name__
        if self._rank == 0:
            reset = not self.layout.is_fixed
            with self._table.locked():
                made = len(self.layout.file_bytes)
                self._table.append({"end": self._number, "error": [code, reason], "reset": reset})
            if self._files is not None:
                # Other ranks may write to them for a while, and make no more.
                self.buffers.drop(self._files, made)
        else:
            self._table.tell({"failed": self._number, "rank": self._rank, "error": reason})

    def close(self) -> None:
        self._table.close()
        super().close()

    # ── what others say ──────────────────────────────────────────────────────────────────────────────────────────

    def _heard(self, record: Record) -> None:
        if "join" in record:
            self._members[record["join"]] = record["member"]
            if record["world_size"] != self._world_size:
                raise UsageError(
                    f"rank {record['join']} has a world_size of {record['world_size']}, rank {self._rank} one of "
                    f"{self._world_size}"
                )
        elif "begin" in record:
            self._begun[record["begin"]] = record
        elif "place" in record:
            if record["place"] not in self.layout.places:
                dtype, shape, *where = record["at"]
                self.layout.add(record["place"], Place(dtype, tuple(shape), *where))
        elif "share" in record:
            rank = record["rank"]
            if "parts" in record:
                self._shares[rank] = [(name, Part(tuple(at), tuple(size))) for name, (at, size) in record["parts"]]
            if record["share"] == self._number:
                self._given[rank] = self._shares[rank]
        elif "failed" in record:
            # A rank may give up one that rank 0 has not begun.
            if record["failed"] >= self._number:
                self._failed[record["failed"]] = (record["rank"], record["error"])
        elif "end" in record:
            self._ended[record["end"]] = record
            self.layout.is_fixed = self.layout.is_fixed or record["error"] is None
            if record.get("reset"):
                self.layout.clear()

    def _begun_by_other(self, version: str, end: float) -> VersionFiles:
        number = self._number
        self._table.wait(
            lambda: number in self._begun or number in self._ended,
            end,
            lambda: f"rank 0 has not begun its version {number} in time",
        )
        self._check_goes_on()
        begun = self._begun[number]
        if begun["version"] != version:
            raise UsageError(f"rank 0 publishes version {begun['version']} now")
        self.buffers.forget_gone()
        # Rank 0 removes them only when it has said that the version has ended.
        with self._table.locked():
            self._check_goes_on()
            files = self.buffers.make(begun["files"], begun["session"])
            if begun["whole"]:
                files.map(self.layout)
        return files

    def _check_goes_on(self) -> None:
        """Raises what rank 0 has abandoned the version for."""
        ended = self._ended.get(self._number)
        if ended is not None and ended["error"] is not None:
            raise error_of(*ended["error"])

    def _await_end(self, end: float) -> None:
        number = self._number
        self._table.wait(
            lambda: number in self._ended, end, lambda: f"rank 0 has not completed version {number} in time"
        )
        self._check_goes_on()
        assert self._files is not None
        self._files.map(self.layout)

    def _await_shares(self, end: float) -> None:
        others = range(1, self._world_size)
        joined_end = min(end, time.monotonic() + self._timeout)

        def is_there() -> bool:
            if self._number in self._failed:
                raise CheckpointError("rank {} has abandoned it: {}".format(*self._failed[self._number]))
            missing = [rank for rank in others if rank not in self._given]
            for rank in missing:
                member = self._members.get(rank)
                if member is None and time.monotonic() > joined_end:
                    raise DeadlineError(f"rank {rank} has not connected in time; it has to be on host {gethostname()}, as the daemon is")
                if member is not None and not os.path.exists(member):
                    raise PeerLostError(f"rank {rank} has ended before it had given its share", retry=True)
            return not missing

        def words() -> str:
            missing = [str(rank) for rank in others if rank not in self._given]
            return f"the share of rank {', '.join(missing)} has not come in time"

        self._table.wait(is_there, end, words)

    # ── where they meet ──────────────────────────────────────────────────────────────────────────────────────────

    def _joined(self, end: float) -> Table:
        table = self._found(end)
        table.look()
        table.tell({"join": self._rank, "world_size": self._world_size, "member": self._member})
        return table

    def _found(self, end: float) -> Table:
        """Rank 0 makes the table, the others wait for it. That of a trainer that has ended goes in a moment."""
        while True:
            tables = self._tables()
            if self._rank == 0 and not tables:
                return Table(self.buffers.path(f"table-{self._key}"), self._heard)
            if self._rank > 0 and len(tables) == 1:
                table = Table(tables[0], self._heard)
                if not table.is_gone:
                    return table
            if time.monotonic() > end:
                if self._rank == 0:
                    raise UsageError(
                        f"another trainer of several ranks publishes {self._checkpoint}; choose another name"
                    )
                raise DeadlineError(f"rank 0 does not publish {self._checkpoint} on host {gethostname()}")
            time.sleep(_PAUSE_SECONDS)

    def _tables(self) -> List[str]:
        directory = glob.escape(self.buffers.directory)
        return sorted(glob.glob(os.path.join(directory, f"session-*-table-{self._key}")))
