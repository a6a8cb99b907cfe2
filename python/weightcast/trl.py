"""weightcast as the weight transfer of TRL's `AsyncGRPOTrainer` and `AsyncDistillationTrainer`:

    AsyncGRPOTrainer(..., weight_transfer=weightcast.trl.WeightTransfer("http://localhost:8000"))

The trainer calls it on its main process only; the other ranks take part in gathering each tensor. Checked against TRL
1.16. Nothing of TRL or torch is imported.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

from .client_results import Update
from .trainers import Engine, ensure_instances, update_options


class WeightTransfer:
    """Publishes what the trainer streams as one version, and installs it in vLLM servers.

    The servers keep generating while the weights are gathered: the daemon pauses them for the installation alone. So
    `pause` and `resume` do nothing. How they are paused is the instance's `pause`; "keep", which is what TRL asks of vLLM
    itself, freezes requests and goes on with them.
    """

    def __init__(
        self,
        *engines: Engine,
        checkpoint: str = "policy",
        update: Optional[Mapping[str, Any]] = None,
        **connection: Any,
    ) -> None:
        """`engines`: URLs of vLLM servers, or dicts of `Client.add_instance`; none for all that the daemon has.

        `update`: arguments of `Publisher.update`, such as `timeout` in seconds and `verify`. `connection`: further ones
        of `weightcast.connect`, such as `socket`.
        """
        self._engines = [_keeping_requests(engine) for engine in engines]
        self._connection = {"checkpoint": checkpoint, **connection}
        self._update = update
        self._publisher: Any = None
        self._instances: Optional[List[str]] = None
        self._sent = 0
        #: What became of the last update: outcomes and proofs of each instance.
        self.last_update: Optional[Update] = None

    def init_weight_transfer(self) -> None:
        """Connects to the daemon. Called once, before the first transfer. Raises `DaemonError`."""
        import weightcast

        if self._publisher is None:
            self._publisher = weightcast.connect(**self._connection)
        if self._engines:
            self._instances = ensure_instances(self._publisher.client, self._engines)

    def pause(self) -> None:
        """Nothing: the daemon pauses the servers when the version is there."""

    def send_weights(self, iterator: Iterator[Tuple[str, Any]]) -> None:
        """Returns when the servers have the weights and generate again.

        Raises `DaemonError`: of a server that was not updated its message says why, and whether it is still paused.
        """
        if self._publisher is None:
            self.init_weight_transfer()
        with self._publisher.version(f"step-{self._sent}") as version:
            version.put_all(iterator)
        self._sent += 1
        self.last_update = self._publisher.update(**update_options(self._update, self._instances))

    def resume(self) -> None:
        """Nothing: the daemon has resumed the servers."""

    def destroy(self) -> None:
        """Leaves the daemon, which ends when its last client is gone unless it was started to stay."""
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            publisher.close()


def _keeping_requests(engine: Engine) -> Dict[str, Any]:
    options: Dict[str, Any] = {"endpoint": engine} if isinstance(engine, str) else dict(engine)
    return {"pause": "keep", **options}
