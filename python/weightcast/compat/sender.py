"""What one rank of a group does for all: it talks to the daemon."""

from __future__ import annotations

import os
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..client import Client
from ..client_errors import BusyError, NotFoundError, NotReadyError
from ..client_http import default_socket
from ..client_results import Instance, Update
from ..publisher_start import started
from .settings import Limits

#: A daemon that was started for a group ends so long after it.
_LINGER_SECONDS = 2.0
_START_SECONDS = 60.0
_HEALTH_SECONDS = 5.0


@dataclass(frozen=True)
class Engine:
    """Where updates are asked for, and how."""

    #: Of the instance.
    name: str
    endpoint: str
    #: As `Client.add_instance` takes them.
    engine: str = "vllm"
    link: str = "checkpoint-engine"
    api_key: str | None = None


class Sender:
    """Keeps one engine in step with the group: as an instance with a rank for each of its workers."""

    def __init__(self, engine: Engine, devices: int, limits: Limits) -> None:
        """`devices`: of this host; rank n is on device n modulo that. Starts a daemon if there is none."""
        self._engine = engine
        self._devices = devices
        self._limits = limits
        #: Of the ranks in the daemon; None while the engine is no instance, or one that others have added.
        self._ranks: list[int] | None = None
        self._name: str | None = None
        self.socket = default_socket()
        self.client = Client(self.socket)
        started(self.client, self.socket, _LINGER_SECONDS, 0, _serve_options(engine), _START_SECONDS)
        # As long as it is open, a daemon that was started for somebody stays.
        self._held = self.client.hold_session()
        #: Where tensors are written that the daemon is to register without a copy.
        self.directory: str = self._held.first["shared_directory"]

    def register(self, checkpoint: str, ranks: Sequence[int], **source: Any) -> None:
        """Has the engine's ranks load a checkpoint. `source`: `files` or `metas`, as `Client.register` takes them."""
        self._use(ranks)
        self.client.register(checkpoint, **source)

    def update(self, checkpoint: str, ranks: Sequence[int], seconds: float) -> Update:
        if not self._held.is_alive:
            raise NotReadyError(f"the daemon at {self.socket} is gone, and with it what was registered")
        self._use(ranks)
        return self.client.update(
            checkpoint,
            [str(self._name)],
            timeout=seconds,
            bucket_bytes=self._limits.bucket_bytes,
            memory_fraction=self._limits.memory_fraction,
        )

    def unregister(self, checkpoint: str) -> None:
        try:
            self.client.unregister(checkpoint)
        except NotFoundError:
            pass

    def close(self) -> None:
        """Takes the engine out of the daemon, if this has put it there."""
        ranks, self._ranks = self._ranks, None
        if ranks is not None:
            self.client.remove_instance(self._engine.name)

    def _use(self, ranks: Sequence[int]) -> None:
        """Makes these the ranks of the instance. Those of another choice end; the daemon loads again what they held."""
        wanted = list(ranks)
        if self._name is None:
            self._adopt(len(wanted))
        if self._ranks == wanted or (self._name is not None and self._ranks is None):
            return
        if self._ranks is not None:
            self.close()
        engine = self._engine
        self.client.add_instance(
            engine.name,
            engine.endpoint,
            wanted,
            devices=[rank % self._devices for rank in wanted],
            engine=engine.engine,
            link=engine.link,
            api_key=engine.api_key,
        )
        self._name, self._ranks = engine.name, wanted

    def _adopt(self, count: int) -> None:
        """An engine that others have added is updated as they have. What a group has left that was killed is removed."""
        instances = self.client.status().instances
        left = next((one for one in instances if one.name == self._engine.name), None)
        if left is not None:
            if left.endpoint != self._engine.endpoint and _is_alive(left):
                raise BusyError(
                    f"another group updates its engines by the daemon at {self.socket}: {left.endpoint}"
                )
            self.client.remove_instance(left.name)
            return
        known = next((one for one in instances if one.endpoint == self._engine.endpoint), None)
        if known is None:
            return
        if len(known.ranks) != count:
            raise BusyError(
                f"instance {known.name} has the engine {known.endpoint} with {len(known.ranks)} ranks, not {count}"
            )
        self._name = known.name


def _serve_options(engine: Engine) -> list[str]:
    """Loopback addresses need no leave."""
    if engine.endpoint.startswith("unix:"):
        return ["--allow-engine", engine.endpoint]
    host = urllib.parse.urlsplit(engine.endpoint).hostname
    return [] if host in ("localhost", "127.0.0.1", "::1") else ["--allow-engine", engine.endpoint]


def _is_alive(instance: Instance) -> bool:
    if instance.endpoint.startswith("unix:"):
        return os.path.exists(instance.endpoint[5:])
    try:
        with urllib.request.urlopen(f"{instance.endpoint}/health", timeout=_HEALTH_SECONDS):
            return True
    except OSError:
        return False
