"""The trainer's side of vLLM's weight transfer, as its own backends have one:

    from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
    from weightcast.vllm_trainer import WeightcastTrainerInitInfo

    trainer = WeightTransferTrainerFactory.trainer_init(
        WeightcastTrainerInitInfo(rank=rank, world_size=world_size),
        client=HTTPVLLMWeightSyncClient("http://localhost:8000"),
        source=ModuleSource(model),
    )
    trainer.send_weights()

with `--weight-transfer-config '{"backend": "weightcast"}'` of the servers. The daemon speaks to the servers itself, over
the routes that `client` would use, so that of `client` only the URL is needed. Checked against vLLM 0.32.
"""

from __future__ import annotations

import socket as sockets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from . import vllm_plugin
from .client_errors import UsageError
from .client_results import Update
from .needed_packages import needed_by
from .trainers import Engine, ensure_instances, memory_of_this_process, share_of, update_options

with needed_by("weightcast.vllm_trainer"):
    import torch
    from vllm.distributed.weight_transfer.base import (
        TrainerInitInfo,
        TrainerWeightTransferEngine,
        VLLMWeightSyncClient,
        WeightSource,
    )

if TYPE_CHECKING:
    # Python 3.10 has none, and needs none.
    from typing import Self

# A trainer does not load vLLM's plug-ins, and has to import this one for its init info.
vllm_plugin.register()


@dataclass
class WeightcastTrainerInitInfo(TrainerInitInfo):
    """Only rank 0's `engines`, `instances` and `update` are read."""

    backend: ClassVar[str] = vllm_plugin.BACKEND

    world_size: int = 1
    """Of the trainer. Above 1 its default process group has to be initialised, with the same ranks."""
    engines: list[Engine] | None = None
    """URLs of servers, or dicts of `Client.add_instance`. Default: the server of an HTTP client."""
    instances: list[str] | None = None
    """Instances of the daemon, in place of `engines`; an empty list stands for all that it has."""
    checkpoint: str = "policy"
    update: dict[str, Any] = field(default_factory=dict)
    """Arguments of `Publisher.update`, such as `timeout` in seconds and `verify`."""
    publish_timeout: float = 3600.0
    """Until all ranks have given their shares of a version, in seconds."""
    connection: dict[str, Any] = field(default_factory=dict)
    """Arguments of `weightcast.connect`, such as `socket`."""


class WeightcastTrainer(TrainerWeightTransferEngine[WeightcastTrainerInitInfo]):
    """Each rank on the host of rank 0 publishes its share of a version; rank 0 lets the daemon install it."""

    init_info_cls = WeightcastTrainerInitInfo

    @classmethod
    def trainer_init(
        cls,
        init_info: WeightcastTrainerInitInfo,
        *,
        client: VLLMWeightSyncClient,
        source: WeightSource | None = None,
    ) -> Self:
        """Raises `UsageError`, and what connecting to the daemon and adding instances raises (`DaemonError`)."""
        if source is None:
            raise UsageError("weightcast sends whole versions: give a WeightSource")
        return cls(init_info, client, source)

    def __init__(
        self, init_info: WeightcastTrainerInitInfo, client: VLLMWeightSyncClient, source: WeightSource
    ) -> None:
        import weightcast

        super().__init__(client=client, source=source, is_sender=init_info.is_sender)
        self._update_options, self._publish_timeout = init_info.update, init_info.publish_timeout
        self._sent = 0
        self.last_update: Update | None = None
        """On rank 0: what became of the last update, with outcomes and proofs of each server."""
        ranks = _gather(init_info, {"memory": memory_of_this_process(), "held": _names(source.held_names())})
        share = share_of(init_info.rank, [one["memory"] for one in ranks])
        self._mine = _tensors_of(init_info.rank, ranks, source)
        self._publisher: Any = None
        if share is not None:
            index, count = share
            options = {"checkpoint": init_info.checkpoint, **init_info.connection}
            self._publisher = weightcast.connect(rank=index, world_size=count, **options)
        self._instances = self._find_instances(init_info) if self.is_sender else None

    def send_weights(self, version: str | None = None) -> None:
        """Called on every rank. On rank 0 it returns when the servers have the weights and generate again, on the others
        when theirs may change. `version` is its name; by default versions are numbered. Raises `DaemonError`.
        """
        name = version or f"step-{self._sent}"
        self._sent += 1
        if self._publisher is None:
            # To gather a tensor takes all ranks.
            for _ in self.source:
                pass
            return
        with self._publisher.version(name, timeout=self._publish_timeout) as parts:
            for tensor_name, tensor in self.source:
                if self._mine is None or tensor_name in self._mine:
                    parts.put(tensor_name, tensor)
        if self.is_sender:
            self.last_update = self._publisher.update(**update_options(self._update_options, self._instances))

    def shutdown(self) -> None:
        """Leaves the daemon, which ends when its last client is gone unless it was started to stay."""
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            publisher.close()

    def _find_instances(self, init_info: WeightcastTrainerInitInfo) -> list[str] | None:
        if init_info.instances is not None:
            return init_info.instances or None
        engines = init_info.engines
        if engines is None:
            url = getattr(self.client, "base_url", None)
            if url is None:
                raise UsageError(
                    f"{type(self.client).__name__} has no URL that a daemon could speak to: give engines or instances"
                )
            engines = [url]
        return ensure_instances(self._publisher.client, engines)


def _names(held: Any) -> list[str] | None:
    return None if held is None else list(held)


def _gather(init_info: WeightcastTrainerInitInfo, mine: dict[str, Any]) -> list[dict[str, Any]]:
    mine["host"] = sockets.gethostname()
    if init_info.world_size == 1:
        return [mine]
    group = torch.distributed
    if not group.is_initialized() or group.get_world_size() != init_info.world_size:
        raise UsageError(
            f"a trainer of {init_info.world_size} ranks needs torch.distributed's default group of as many"
        )
    gathered: list[Any] = [None] * init_info.world_size
    group.all_gather_object(gathered, mine)
    return gathered


def _tensors_of(rank: int, ranks: list[dict[str, Any]], source: WeightSource) -> set[str] | None:
    """Names of what this rank publishes; None for all.

    Each tensor is given by one of the ranks that hold it and see the shared memory of rank 0. Every rank comes to the
    same answer. Raises `UsageError` if there is none.
    """
    if len(ranks) == 1:
        return None
    near = [number for number, one in enumerate(ranks) if one["memory"] == ranks[0]["memory"]]
    holders = {number: None if ranks[number]["held"] is None else set(ranks[number]["held"]) for number in near}
    mine = set()
    for index, meta in enumerate(source.metadata()):
        able = [number for number in near if holders[number] is None or meta.name in holders[number]]
        if not able:
            raise UsageError(
                f"tensor {meta.name}: no rank on {ranks[0]['host']}, where rank 0 publishes, holds it"
            )
        if able[index % len(able)] == rank:
            mine.add(meta.name)
    return mine
