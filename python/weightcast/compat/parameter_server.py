"""The class that trainers and `torchrun` scripts of checkpoint-engine (0.4, `checkpoint_engine/ps.py`) use.

One rank of the group, rank 0, talks to the daemon, which it starts if there is none and which then ends with it; the others
give their shares of a checkpoint, and wait. Weights go through weightcast's own ranks, not through this process group.
"""

from __future__ import annotations

import atexit
import logging
import os
import socket
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed

from ..client import Client
from ..client_errors import DaemonError, UsageError
from ..tensor_files import unlink, write_tensors
from .caller_engine import CallerEngine
from .orders import Orders, RequestFunction
from .rank_group import RankGroup
from .sender import Engine, Sender
from .settings import environment, environment_number, limits_of

logger = logging.getLogger(__name__)

_INSTANCE = "parameter-server"
#: That ranks may take to register their shares, or to come to a barrier.
_GATHER_SECONDS = 3_600.0


class ParameterServer:
    """All ranks make one, and make the same calls in the same order. They are on one host.

    Every method raises a `DaemonError` (client_errors.py), on all ranks alike where all take part.
    """

    def __init__(
        self,
        *,
        rank: int | None = None,
        world_size: int | None = None,
        auto_pg: bool = True,
        gpu_count: int | None = None,
        mem_fraction: float | None = None,
        master_addr: str | None = None,
        master_port: int | None = None,
    ) -> None:
        """What is not given is taken of RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT + 1 and PS_MEM_FRACTION (0.9).

        `auto_pg`: make a process group of torch when one is needed, and destroy it after each update. `gpu_count`: devices of
        this host; rank n is on device n modulo that. `mem_fraction`: of a device's free memory that an update may take.
        PS_MAX_BUCKET_SIZE_GB limits a bucket (in GiB; default: as weightcast chooses).
        """
        self._rank = environment_number("RANK") if rank is None else rank
        self._world_size = environment_number("WORLD_SIZE") if world_size is None else world_size
        self._auto_pg = auto_pg
        self._gpu_count = gpu_count or torch.cuda.device_count() or self._world_size
        self._limits = limits_of(mem_fraction)
        address = master_addr or environment("MASTER_ADDR")
        port = environment_number("MASTER_PORT") + 1 if master_port is None else master_port
        self._group = RankGroup(self._rank, self._world_size, address, port)
        self._process_groups = 0
        self._sender: Sender | None = None
        #: This rank's shares: files by checkpoint, and which of them are of its own tensors.
        self._shares: dict[str, tuple[list[str], list[str]]] = {}
        #: What all ranks have registered together, and the one of which `get_metas` tells.
        self._gathered: set[str] = set()
        self._current: str | None = None
        #: The content of a metas file, to be registered by the next update.
        self._foreign: str | None = None
        #: On rank 0, where the caller asks the engines.
        self._caller: CallerEngine | None = None
        self._orders: Orders | None = None
        self._begin()

    # ── checkpoints ──────────────────────────────────────────────────────────────────────────────────────────────

    def register_checkpoint(
        self,
        checkpoint_name: str,
        *,
        files: list[str] | None = None,
        named_tensors: Mapping[str, torch.Tensor] | None = None,
        use_shared_memory_pool: bool = False,
        use_inplace_pin_memory: bool = True,
    ) -> None:
        """This rank's share of a checkpoint: safetensors files, and tensors, which are copied. Loaded by `gather_metas`.

        Files in /dev/shm are used where they are, and are not removed: they are to stay until the checkpoint is unregistered.
        The last two options change nothing: memory of earlier checkpoints is used again anyway.
        """
        del use_shared_memory_pool, use_inplace_pin_memory
        if checkpoint_name in self._shares:
            raise UsageError(f"checkpoint {checkpoint_name} is registered already")
        paths = [os.path.abspath(file) for file in files or ()]
        own = [write_tensors(self._directory, named_tensors)] if named_tensors else []
        self._shares[checkpoint_name] = (paths, own)

    def unregister_checkpoint(self, checkpoint_name: str, force: bool = False) -> None:
        """Gives its memory back. `force` changes nothing. A checkpoint that is not registered is no error."""
        del force
        share = self._shares.pop(checkpoint_name, None)
        if share is None:
            logger.warning("rank %d has no checkpoint %s", self._rank, checkpoint_name)
            return
        if checkpoint_name not in self._gathered:
            for path in share[1]:
                unlink(path)
            return
        self._gathered.discard(checkpoint_name)
        if self._sender is not None:
            self._sender.unregister(checkpoint_name)

    def gather_metas(self, checkpoint_name: str) -> None:
        """Brings the shares of all ranks together, and loads them. Ranks without one take part too."""
        self._ensure_process_group()
        self._foreign, self._current = None, checkpoint_name
        shares = self._group.gather(sum(self._shares.get(checkpoint_name, ([], [])), []), _GATHER_SECONDS)
        paths = [path for share in shares for path in share]
        if not paths:
            return

        def register() -> None:
            assert self._sender is not None
            self._sender.register(checkpoint_name, range(self._world_size), files=paths)

        self._group.by_first(register, _GATHER_SECONDS)
        self._gathered.add(checkpoint_name)

    def get_metas(self) -> dict[int, Any]:
        """With what other groups read the gathered checkpoint from this one's memory (`load_metas`); {} without one.

        It grants access to the checkpoint. checkpoint-engine's own types are used if its package is loaded.
        """
        if self._current not in self._gathered:
            return {}
        fields = {
            "p2p_store_addr": self._client.metas(str(self._current)),
            "memory_buffer_metas_list": [],
            "rdma_device": "weightcast",
        }
        theirs = sys.modules.get("checkpoint_engine.data_types")
        return {0: fields if theirs is None else theirs.MemoryBufferMetaList(**fields)}

    def load_metas(self, metas: Mapping[int, Any]) -> None:
        """What the next updates install is read from the memory of the group whose `get_metas` this is."""
        found = [
            one.get("p2p_store_addr") if isinstance(one, Mapping) else one.p2p_store_addr
            for one in metas.values()
        ]
        if len(found) != 1 or not isinstance(found[0], str):
            raise UsageError(
                "these are no metas of weightcast; a group of checkpoint-engine cannot be read from"
            )
        self._foreign = found[0]

    # ── updates ──────────────────────────────────────────────────────────────────────────────────────────────────

    def update(
        self,
        checkpoint_name: str,
        req_func: RequestFunction,
        *,
        timeout: timedelta = timedelta(minutes=10),
        ranks: list[int] | None = None,
    ) -> None:
        """Installs a checkpoint in the engines of all ranks, or of `ranks`. Every rank calls it.

        `req_func` is called on each of them, once, with device uuid and address of all ranks' worker links, by rank: it has
        the workers of its engine connect, as checkpoint-engine's do, and returns when they are done, or raises. Another
        choice of `ranks` than the last ends weightcast's processes for those, and starts others.
        """
        if req_func is None:
            raise UsageError("req_func is required")
        chosen = sorted(set(ranks)) if ranks else list(range(self._world_size))
        if not 0 <= chosen[0] <= chosen[-1] < self._world_size:
            raise UsageError(f"ranks has {ranks}; this group has those from 0 to {self._world_size - 1}")
        end = time.monotonic() + timeout.total_seconds()
        self._ensure_process_group(timeout)
        try:
            wanted = [checkpoint_name, chosen]
            if any(other != wanted for other in self._group.gather(wanted, timeout.total_seconds())):
                raise UsageError("not all ranks ask for an update of the same checkpoint and the same ranks")
            self._orders = Orders(self._group, req_func, chosen, end)
            if self._sender is None:
                self._orders.follow()
            else:
                self._lead(self._sender, self._orders, checkpoint_name, chosen)
            self.store_based_barrier()
        finally:
            if self._auto_pg and torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()

    def init_process_group(self, *, timeout: timedelta = timedelta(minutes=10)) -> None:
        """Makes torch's default process group, for the caller's own barriers. weightcast needs none."""
        self._process_groups += 1
        torch.distributed.init_process_group(
            backend="cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            world_size=self._world_size,
            rank=self._rank,
            timeout=timeout,
            store=self._group.prefixed(f"process-group/{self._process_groups}"),
        )

    def store_based_barrier(self, timeout: timedelta = timedelta(minutes=5)) -> None:
        """Returns when all ranks have come here. Needs no process group."""
        self._group.gather(None, timeout.total_seconds())

    # ── how ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _engine(self) -> Engine:
        """On rank 0: what is updated. Here the caller's own engines, which `req_func` asks."""
        self._caller = CallerEngine(self._order)
        return Engine(_INSTANCE, self._caller.endpoint, api_key=self._caller.api_key)

    def _begin(self) -> None:
        """Rank 0 finds the daemon or starts one, and tells the others of it."""
        path, self._directory = self._group.by_first(self._start_sender, _GATHER_SECONDS)
        self._client = Client(path)
        host, *others = self._group.gather(socket.gethostname(), _GATHER_SECONDS)
        elsewhere = sorted(set(others) - {host})
        if elsewhere:
            raise UsageError(
                f"ranks are on {', '.join(elsewhere)}, rank 0 is on {host}: this group has to be on one host; "
                "for several start `weightcast serve` with their hosts (docs/daemon.md)"
            )

    def _start_sender(self) -> tuple[str, str]:
        """The daemon's socket, and where tensors are written for it."""
        self._sender = Sender(self._engine(), self._gpu_count, self._limits)
        atexit.register(self._end)
        return self._sender.socket, self._sender.directory

    def _end(self) -> None:
        """The daemon may have been there before, and stay."""
        assert self._sender is not None
        try:
            for name in list(self._gathered):
                self._sender.unregister(name)
            self._sender.close()
        except DaemonError as error:
            logger.debug("the daemon keeps what it has of this group: %s", error)

    def _ensure_process_group(self, timeout: timedelta = timedelta(minutes=10)) -> None:
        if self._auto_pg and not torch.distributed.is_initialized():
            self.init_process_group(timeout=timeout)

    def _lead(self, sender: Sender, orders: Orders, name: str, ranks: list[int]) -> None:
        """On rank 0: updates, and tells the others when it has ended."""
        error: BaseException | None = None
        try:
            if self._foreign is not None:
                self._register_foreign(sender, name, ranks)
            sender.update(name, ranks, orders.seconds_left)
        except BaseException as failure:
            error = failure
            raise
        finally:
            if self._caller is not None:
                self._caller.settle(orders.seconds_left)
            orders.ended(error)

    def _register_foreign(self, sender: Sender, name: str, ranks: list[int]) -> None:
        """The daemon reads a file, and removes it in the end."""
        path = os.path.join(self._directory, f"{os.getpid()}-metas-{time.time_ns()}.json")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(str(self._foreign))
        sender.register(name, ranks, metas=path)
        self._foreign = None
        self._gathered.add(name)

    def _order(self, links: dict[str, str]) -> None:
        assert self._orders is not None
        self._orders.order(links)
