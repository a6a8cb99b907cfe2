"""weightcast as one of vLLM's weight-transfer engines: `--weight-transfer-config '{"backend": "weightcast"}'`.

One update is one session of vLLM's:

    POST /init_weight_transfer_engine  {"init_info": {"protocol": 1}}
    POST /start_weight_update, or /start_draft_weight_update
    POST /update_weights               {"update_info": {"links": {device uuid: address}}}
    POST /finish_weight_update
    POST /update_weight_version        {"new_version": "checkpoint@digest"}, once what was installed is proved

All that changes the model happens within `update_weights`, during which vLLM generates nothing: with vLLM's own
engines the model lies in pieces from start to finish, and one request in between ends the engine.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)

from .errors import WeightcastError
from .messages import PROTOCOL_VERSION, check_protocol
from .receive import DEFAULT_SILENCE_SECONDS
from .vllm_drafts import NO_DRAFT, refusal_of_draft
from .vllm_reloadable import Target
from .vllm_update import install_weights, refuse_if_asleep, survey_models


logger = logging.getLogger("vllm.weightcast")


@dataclass
class WeightcastInitInfo(WeightTransferInitInfo):
    protocol: int
    """Version of the worker link that the sender speaks."""


@dataclass
class WeightcastUpdateInfo(WeightTransferUpdateInfo):
    links: dict[str, str] = field(default_factory=dict)
    """Device uuid to the address of the worker link on that device."""
    silence_seconds: float = DEFAULT_SILENCE_SECONDS
    survey: str | None = None
    """In place of links: where to say what the model holds. Nothing changes."""


class WeightcastTransferEngine(WeightTransferEngine[WeightcastInitInfo, WeightcastUpdateInfo]):
    """A session writes one model: the target, or the draft model, whichever checkpoint that has."""

    init_info_cls = WeightcastInitInfo
    update_info_cls = WeightcastUpdateInfo

    def __init__(self, config: Any, vllm_config: Any, device: torch.device, model: torch.nn.Module) -> None:
        super().__init__(config, vllm_config, device, model)
        _offer_protocol()
        self._installed = False
        refusal = refusal_of_draft(vllm_config)
        if refusal != NO_DRAFT:
            why = refusal or "it takes them in a session of its own, by hasDraftModel of the instance"
            logger.info("the draft model keeps its weights in an update of the target: %s", why)

    def init_transfer_engine(self, init_info: WeightcastInitInfo) -> None:
        """Nothing is kept: addresses come with each update. Raises ProtocolError."""
        check_protocol(init_info.protocol)

    def start_weight_update(self) -> None:
        """Raises EngineAsleep."""
        refuse_if_asleep()
        self._installed = False

    def receive_weights(self, update_info: WeightcastUpdateInfo) -> None:
        """Installs one set of weights whole. However it ends, each layer is whole, with old or with new weights."""
        is_draft = self.model is not self._default_model
        target = Target("draft" if is_draft else "target", self.model, self.model_config)
        if update_info.survey is not None:
            survey_models(update_info.survey, [target], vllm_config=self.vllm_config, device=self.device)
            self._installed = True
            return
        install_weights(
            update_info.links,
            [target],
            vllm_config=self.vllm_config,
            device=self.device,
            silence_seconds=update_info.silence_seconds,
        )
        self._installed = True

    def finish_weight_update(self) -> None:
        if not self._installed:
            raise WeightcastError(
                "no weights were installed since the update was started: POST /update_weights first"
            )
        self._installed = False

    def shutdown(self) -> None:
        """Nothing is held between updates."""


def _offer_protocol() -> None:
    """Has this process's worker answer what a worker extension is asked. A call that fails in several workers leaves answers
    behind, which vLLM takes for those of the next call; so whoever asks which of the two an engine has asks what both know.
    """
    from vllm.v1.worker.worker_base import WorkerBase

    WorkerBase.weightcast_protocol = _say_protocol


def _say_protocol(_worker: object) -> dict[str, Any]:
    return {"protocol": PROTOCOL_VERSION, "face": "session"}
