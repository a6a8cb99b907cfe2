"""weightcast as a checkpoint engine of verl:

    actor_rollout_ref.rollout.checkpoint_engine:
      backend: weightcast
      custom_backend_module: weightcast.verl
      engine_kwargs: {weightcast: {checkpoint: policy}}     # optional: arguments of WeightcastCheckpointEngine

The ranks of the actor on the host of its rank 0 publish each round as one version, each its share; the rollout workers
read it out of shared memory, so that they have to be on that host, and hand it to verl's server adapters. Engines that
are not verl's, such as those that serve or evaluate, are updated by the daemon: `engines`. Checked against verl 0.9.1.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket as sockets
import time
import uuid
from typing import Any, AsyncGenerator, Mapping

from .client_errors import UsageError
from .needed_packages import needed_by
from .trainers import Engine, ensure_instances, memory_of_this_process, share_of, update_options

with needed_by("weightcast.verl"):
    import torch
    from verl.checkpoint_engine.base import CheckpointEngine, CheckpointEngineRegistry
    from verl.utils.device import get_device_name, get_torch_device
    from verl.workers.rollout.utils import ensure_async_iterator


@CheckpointEngineRegistry.register("weightcast")
class WeightcastCheckpointEngine(CheckpointEngine):
    """One per rank of the actor and per rollout worker. It keeps its connection from round to round."""

    def __init__(
        self,
        bucket_size: int,
        is_master: bool = False,
        checkpoint: str = "policy",
        engines: list[Engine] | None = None,
        instances: list[str] | None = None,
        update: Mapping[str, Any] | None = None,
        publish_timeout: float = 3600.0,
        **connection: Any,
    ) -> None:
        """`engines`: URLs of further engines, or dicts of `Client.add_instance`; `instances`: further instances that the
        daemon has. Both are updated before the round ends. `update`: arguments of `Publisher.update`. `publish_timeout`:
        until all of a version is there, in seconds. `connection`: of `weightcast.connect`, such as `socket`.
        `bucket_size`: of verl's server adapters, in bytes. `is_master` is not needed.
        """
        self._connection = {"checkpoint": checkpoint, **connection}
        self._engines, self._instances, self._update = engines or [], instances or [], update
        self._publish_timeout, self._bucket_size = publish_timeout, bucket_size
        self._publisher: Any = None
        self._share: tuple[int, int] | None = None
        self._round = ""

    def prepare(self) -> dict[str, Any]:
        return {"memory": memory_of_this_process(), "host": sockets.gethostname()}

    @classmethod
    def build_topology(
        cls, actor_wg_world_size: int, rollout_world_size: int, metadata: list[dict]
    ) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
        """Raises `UsageError` for a rollout worker that does not see the shared memory of the actor's rank 0."""
        actors, rollouts = metadata[:actor_wg_world_size], metadata[actor_wg_world_size:]
        for number, worker in enumerate(rollouts):
            if worker["memory"] != actors[0]["memory"]:
                raise UsageError(
                    f"rollout worker {number} on {worker['host']} does not see the shared memory of "
                    f"{actors[0]['host']}, where rank 0 of the actor publishes"
                )
        memories = [actor["memory"] for actor in actors]
        shares = [share_of(rank, memories) for rank in range(actor_wg_world_size)]
        this_round = uuid.uuid4().hex[:8]
        return (
            {"round_name": [this_round] * actor_wg_world_size, "share": shares},
            {"round_name": [this_round] * rollout_world_size, "share": [None] * rollout_world_size},
        )

    def init_process_group(self, round_name: str, share: tuple[int, int] | None) -> None:
        self._round = round_name
        if share != self._share:
            self._close()
            self._share = share
        # The first one starts the daemon where there is none; the others find it when the transfer begins.
        if share is not None and share[0] == 0:
            self._connect()

    def finalize(self) -> None:
        """Nothing: memory and connection serve the next round too."""

    @torch.no_grad()
    async def send_weights(self, weights: Any, global_steps: int | None = None) -> dict[str, float]:
        """Seconds of both parts, for verl's metrics. Raises `DaemonError`."""
        start = time.monotonic()
        if self._share is None:
            # To gather a tensor takes all ranks.
            async for _ in ensure_async_iterator(weights):
                pass
            return {}
        publisher, (index, count) = self._connect(), self._share
        with publisher.version(self._version(global_steps), timeout=self._publish_timeout) as version:
            number = 0
            async for name, tensor in ensure_async_iterator(weights):
                if number % count == index:
                    version.put(name, tensor)
                number += 1
        if index > 0:
            return {}
        metrics = {"weightcast/publish_seconds": time.monotonic() - start}
        if self._engines or self._instances:
            names = [*self._instances, *ensure_instances(publisher.client, self._engines)]
            update = await publisher.update_async(**update_options(self._update, names))
            metrics["weightcast/update_seconds"] = update.report.seconds
        return metrics

    async def receive_weights(
        self, global_steps: int | None = None
    ) -> AsyncGenerator[tuple[str, torch.Tensor], None]:
        """Tensors in shared memory; those that are larger than a bucket of verl's on the device, where there is one."""
        tensors = self._connect().receive(self._version(global_steps), timeout=self._publish_timeout)
        try:
            # In a thread: the actor may still be gathering, and the worker has other things to answer.
            while (item := await asyncio.to_thread(next, tensors, None)) is not None:
                name, tensor = item
                if tensor.nbytes > self._bucket_size and get_torch_device().is_available():
                    # These verl hands to vLLM whole, by handles that only memory of a device has.
                    tensor = tensor.to(get_device_name())
                yield name, tensor
        finally:
            # Who reads a version keeps the next ones from being written. One that waits in its thread ends by itself.
            with contextlib.suppress(ValueError):
                tensors.close()

    def _version(self, global_steps: int | None) -> str:
        # A step may be sent twice, as after a resume; its rounds are different versions.
        return f"round-{self._round}" if global_steps is None else f"step-{global_steps}-{self._round}"

    def _connect(self) -> Any:
        if self._publisher is None:
            import weightcast

            index, count = self._share or (0, 1)
            self._publisher = weightcast.connect(rank=index, world_size=count, **self._connection)
        return self._publisher

    def _close(self) -> None:
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            publisher.close()
