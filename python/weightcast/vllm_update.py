"""One update of the models of a vLLM worker, whichever way vLLM asked for it."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import zmq

from .buckets import apart
from .errors import WeightcastError
from .installed_versions import is_changing, is_installed
from .kept_parts import KeptParts
from .messages import Installed, Open
from .receive import ReceivedWeights, receive_weights
from .survey import send_survey
from .vllm_drafts import check_draft
from .vllm_live import LiveModels, refuse_moved_experts, walks_of
from .vllm_reload import Weights, reload_of
from .vllm_reloadable import Target
from .vllm_sleep import refuse_if_asleep

# Below vLLM's own logger, so that it is printed as vLLM's lines are.
logger = logging.getLogger("vllm.weightcast")


class ModelUpdate:
    """Writes what a rank sends into models. As a context manager it leaves their layers whole, however it ends."""

    def __init__(
        self,
        targets: Sequence[Target],
        vllm_config: Any,
        device: torch.device,
        next_targets: Sequence[Target] = (),
    ) -> None:
        """Touches nothing but what another update left half-way. Raises EngineAsleep and ModelNotReloadable.

        `next_targets`: what takes the same weights afterwards. What would be refused there is refused here.
        """
        refuse_if_asleep()
        self._vllm_config = vllm_config
        self._device = device
        self._targets = targets
        self._begun = False
        self._took: list[bool] = []
        self.parts = KeptParts(targets[0].model)
        for target in (*targets, *next_targets):
            refuse_moved_experts(target, vllm_config)
        walks = walks_of(vllm_config)
        with self._configured(), torch.no_grad():
            self._reloads = [reload_of(target, device, walks, self.parts) for target in targets]
            self._next_reloads = [reload_of(target, device, walks, self.parts) for target in next_targets]
        self._live = LiveModels(targets, vllm_config, device, walks)

    def __enter__(self) -> ModelUpdate:
        return self

    def __exit__(self, *_error: object) -> None:
        self._abandon()

    def begin(self, request: Open) -> None:
        """Touches nothing. Raises ModelNotReloadable for what is not known to answer rightly after a reload, and for a draft
        model that the weights are sent for a second time in vain.
        """
        if (request.exchanges or 1) > 1:
            check_draft(self._vllm_config)
        if not request.accept_unproven:
            for reload in (*self._reloads, *self._next_reloads):
                reload.check_proven()
        with self._configured():
            self._live.begin(is_asked=request.installed)

    @property
    def one_call(self) -> bool:
        """Whether a bucket is loaded in one call with those that follow: one model alone can take them."""
        return len(self._reloads) == 1 and self._reloads[0].kind == "layerwise"

    def load(self, weights: Weights) -> None:
        with self._undone_if_it_fails():
            if not self._begun:
                self._begun = True
                is_changing(target.model for target in self._targets)
                with self._scope():
                    for reload in self._reloads:
                        reload.begin()
            with self._configured():
                for reload in self._reloads:
                    reload.load(weights if self.one_call else apart(weights))

    def finish(self) -> None:
        """Runs the post-hook. Raises ParametersMissing, and WeightcastError where no tensor was taken."""
        if not self._begun:
            raise WeightcastError(f"no tensor came for the {self._targets[0].which} model")
        with self._undone_if_it_fails(), self._scope():
            self._took = [reload.finish() for reload in self._reloads]

    def installed(self) -> Installed | None:
        """After `finish`, if the rank has asked for it. Raises TensorsMoved."""
        with self._configured():
            return self._live.installed(self._reloads[0].coverage)

    def report(self) -> dict[str, Any]:
        """After `finish`: which models took weights, how they were loaded, and what is known of their coverage."""
        first = self._reloads[0]
        updated = [target.which for target, took in zip(self._targets, self._took, strict=False) if took]
        return {"models": updated, "reload": first.kind, "coverage": first.coverage}

    @contextlib.contextmanager
    def _undone_if_it_fails(self) -> Iterator[None]:
        """At once, since layers that are under way hold on to the link buffer, which the rank gets back next."""
        try:
            yield
        except BaseException:
            self._abandon()
            raise

    def _abandon(self) -> None:
        if not self._begun:
            return
        with self._scope(), torch.no_grad(), contextlib.ExitStack() as every:
            # Also where one fails.
            for reload in self._reloads:
                every.callback(reload.abandon)

    @contextlib.contextmanager
    def _scope(self) -> Iterator[None]:
        """Layers ask for the engine's configuration, and make tensors on the default device: of that torch asks Python in
        every operation, so it is set only where they do."""
        with self._configured(), torch.device(self._device):
            yield

    def _configured(self) -> contextlib.AbstractContextManager[None]:
        from vllm.config import set_current_vllm_config

        return set_current_vllm_config(self._vllm_config)


def install_weights(
    links: dict[str, str],
    targets: Sequence[Target],
    *,
    vllm_config: Any,
    device: torch.device,
    silence_seconds: float,
    next_targets: Sequence[Target] = (),
) -> tuple[ReceivedWeights, dict[str, Any]]:
    """Receives one set of weights over the link to this worker's device, and installs it in `targets`.

    `next_targets`: as `ModelUpdate` has them. What `receive_weights` says of digests and errors holds here. Returns what came, and what became of it.
    """
    uuid = uuid_of_device(device, links)
    if uuid not in links:
        raise WeightcastError(f"no worker link for device {uuid}; there are links for {sorted(links)}")
    with ModelUpdate(targets, vllm_config, device, next_targets) as update:
        received = receive_weights(
            zmq.Context.instance(),
            links[uuid],
            device=device,
            device_uuid=uuid,
            load_weights=update.load,
            post_hook=update.finish,
            begin=update.begin,
            installed=update.installed,
            parts=update.parts,
            one_call=update.one_call,
            may_hold=True,
            silence_seconds=silence_seconds,
        )
        report = update.report()
    is_installed((target.model for target in targets), received.version)
    logger.info("%s is installed, %d tensors: %s", received.version, received.tensors, report)
    return received, report


def survey_models(address: str, targets: Sequence[Target], *, vllm_config: Any, device: torch.device) -> None:
    """Tells whoever listens at `address` what the models hold. Changes nothing. Raises EngineAsleep and RankLost."""
    refuse_if_asleep()
    from vllm.config import set_current_vllm_config

    with set_current_vllm_config(vllm_config), torch.no_grad():
        live = LiveModels(targets, vllm_config, device, walks_of(vllm_config))
        live.begin(is_asked=True)
        installed = live.installed("unknown")
    if installed is None:
        raise WeightcastError("what the models hold cannot be seen; the engine's log says why")
    send_survey(zmq.Context.instance(), address, str(device), [installed])


def uuid_of_device(device: torch.device, links: dict[str, str]) -> str:
    if device.type == "cuda":
        from vllm.platforms import current_platform

        return current_platform.get_device_uuid(device.index)
    # A host device is nothing that an engine knows of.
    named = os.environ.get("WEIGHTCAST_DEVICE_UUID")
    if named is not None:
        return named
    if len(links) == 1:
        return next(iter(links))
    group = torch.distributed
    if group.is_available() and group.is_initialized() and group.get_world_size() == len(links):
        # Links are in the order of the instance's ranks, which is that of the engine's workers.
        return list(links)[group.get_rank()]
    raise WeightcastError(
        f"set WEIGHTCAST_DEVICE_UUID for this worker: it is on no GPU, and there are links for {sorted(links)}"
    )
