"""weightcast as one of vLLM's weight-transfer engines: `--weight-transfer-config '{"backend": "weightcast"}'`.

One update is one session of vLLM's, and one more for a draft model that takes the weights apart. vLLM has routes for the
steps of a session, but their errors are raised in each worker, and answers to all but the first worker's are left in vLLM's
queues (`answer_of`). So each worker takes the steps by itself, within one call:

    POST /collective_rpc         {"method": "update_weights_from_weightcast", "args": [{device uuid: address}, …]}
    POST /update_weight_version  {"new_version": "checkpoint@digest"}, once what was installed is proved

vLLM generates nothing during the call. The routes work as well, for whoever uses them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)

from .errors import WeightcastError
from .messages import check_protocol
from .receive import DEFAULT_SILENCE_SECONDS, ReceivedWeights
from .vllm_answers import answer_of, answer_to_update, survey_worker
from .vllm_drafts import NONE_APART, check_draft, drafts_of
from .vllm_reloadable import Target
from .vllm_sleep import refuse_if_asleep
from .vllm_state import state_of
from .vllm_update import install_weights


@dataclass
class WeightcastInitInfo(WeightTransferInitInfo):
    protocol: int
    """Version of the worker link that the sender speaks."""


@dataclass
class WeightcastUpdateInfo(WeightTransferUpdateInfo):
    links: dict[str, str] = field(default_factory=dict)
    """Device uuid to the address of the worker link on that device."""
    silence_seconds: float = DEFAULT_SILENCE_SECONDS


class WeightcastTransferEngine(WeightTransferEngine[WeightcastInitInfo, WeightcastUpdateInfo]):
    """A session writes one model: the target, or the draft model, whichever checkpoint that has."""

    init_info_cls = WeightcastInitInfo
    update_info_cls = WeightcastUpdateInfo

    def __init__(self, config: Any, vllm_config: Any, device: torch.device, model: torch.nn.Module) -> None:
        super().__init__(config, vllm_config, device, model)
        _offer_methods()
        self.installed: tuple[ReceivedWeights, dict[str, Any]] | None = None
        """What came in the session, and what became of it."""

    def init_transfer_engine(self, init_info: WeightcastInitInfo) -> None:
        """Nothing is kept: addresses come with each update. Raises ProtocolError."""
        check_protocol(init_info.protocol)

    def start_weight_update(self) -> None:
        """Raises EngineAsleep."""
        refuse_if_asleep()
        self.installed = None

    def receive_weights(self, update_info: WeightcastUpdateInfo) -> None:
        """Installs one set of weights whole. However it ends, each layer is whole, with old or with new weights."""
        is_draft = self.model is not self._default_model
        target = Target("draft" if is_draft else "target", self.model, self.model_config)
        self.installed = install_weights(
            update_info.links,
            [target],
            vllm_config=self.vllm_config,
            device=self.device,
            silence_seconds=update_info.silence_seconds,
        )

    def finish_weight_update(self) -> None:
        if self.installed is None:
            raise WeightcastError(
                "no weights were installed since the update was started: POST /update_weights first"
            )

    def shutdown(self) -> None:
        """Nothing is held between updates."""


def _offer_methods() -> None:
    """Has this process's workers answer what a worker extension (worker.py) is asked, in the same form."""
    from vllm.v1.worker.worker_base import WorkerBase

    WorkerBase.weightcast_protocol = lambda worker: state_of(worker, in_sessions=True)
    WorkerBase.update_weights_from_weightcast = _update_worker
    WorkerBase.weightcast_survey = lambda worker, address: answer_of(lambda: survey_worker(worker, address))
    WorkerBase.weightcast_close_session = lambda worker: answer_of(lambda: _close_session(worker))


def _update_worker(
    worker: Any, links: dict[str, str], silence_seconds: float = DEFAULT_SILENCE_SECONDS, draft_too: bool = False
) -> dict[str, Any]:
    def update() -> dict[str, Any]:
        if draft_too:
            if not drafts_of(worker):
                raise WeightcastError(NONE_APART)
            check_draft(worker.vllm_config)
        info = {"links": links, "silence_seconds": silence_seconds}
        received, report = _in_session(worker, worker.start_weight_update, info)
        if draft_too:
            _, of_draft = _in_session(worker, worker.start_draft_weight_update, info)
            report["models"] += of_draft["models"]
        return answer_to_update(received, report)

    return answer_of(update)


def _in_session(
    worker: Any, start: Callable[[], object], info: dict[str, Any]
) -> tuple[ReceivedWeights, dict[str, Any]]:
    """Raises what vLLM does where somebody else's session is open: "already active"."""
    start()
    try:
        worker.update_weights(info)
        worker.finish_weight_update()
    except BaseException:
        _close_session(worker)
        raise
    installed = worker.weight_transfer_engine.installed
    assert installed is not None
    return installed


def _close_session(worker: Any) -> dict[str, Any]:
    """One that nobody finishes, as after an error, or of somebody who is gone: nothing of ours lies in pieces within it."""
    worker.weight_transfer_engine.reset_weight_update_target()
    worker._weight_update_active = False
    return {}
