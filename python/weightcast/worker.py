"""What an engine is started with, so that its workers take new weights from weightcast.

vLLM as worker extension, where weightcast is not its weight-transfer engine (and with `VLLM_SERVER_DEV_MODE=1` in its
environment):

    vllm serve … --worker-extension-cls weightcast.worker.VllmWorkerExtension

SGLang without plug-ins (`sglang_plugin.py` is for those that have them), whose workers look for checkpoint-engine's
function of the same name:

    python -m weightcast.sglang …
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

import torch
import zmq

from .errors import WeightcastError
from .receive import DEFAULT_SILENCE_SECONDS, LoadWeights, receive_weights
from .vllm_answers import answer_of, answer_to_update, survey_worker
from .vllm_drafts import NONE_APART, check_draft, draft_apart, targets_of
from .vllm_state import state_of
from .vllm_update import install_weights


class VllmWorkerExtension:
    """vLLM mixes this class into its worker class, so it has no state and no more names than it must."""

    # What vLLM's worker has.
    device: torch.device | None
    model_runner: Any
    vllm_config: Any

    def update_weights_from_weightcast(
        self, links: dict[str, str], silence_seconds: float = DEFAULT_SILENCE_SECONDS, draft_too: bool = False
    ) -> dict[str, Any]:
        """Called on every worker through `POST /collective_rpc`.

        `links`: device uuid to the address of the worker link on that device. The target model takes the weights and,
        if the engine drafts with layers out of the same checkpoint (MTP), so does the draft model. Any other draft
        model takes them, `draft_too`, in a second exchange, or keeps its own. What `receive_weights` says of digests
        and errors holds here. Returns epoch, version and number of tensors, and what `ModelUpdate.report` says. However
        it ends, each layer is whole, with old or with new weights. An error is an answer, too (`answer_of`).
        """
        return answer_of(lambda: update_worker(self, links, silence_seconds, draft_too))

    def weightcast_protocol(self) -> dict[str, Any]:
        """What it says of itself (`state_of`), asked before an engine is paused. Workers of version 1 have no such method."""
        return state_of(self, in_sessions=False)

    def weightcast_survey(self, address: str) -> dict[str, Any]:
        """Says what the models hold to whoever listens at `address`. Changes nothing. An error is an answer, too."""
        return answer_of(lambda: survey_worker(self, address))


def update_worker(
    worker: Any, links: dict[str, str], silence_seconds: float = DEFAULT_SILENCE_SECONDS, draft_too: bool = False
) -> dict[str, Any]:
    """`VllmWorkerExtension.update_weights_from_weightcast`, whose errors are raised."""
    draft = draft_apart(worker)
    if draft_too and draft is None:
        raise WeightcastError(NONE_APART)
    if draft is not None and draft_too:
        check_draft(worker.vllm_config)
    following = [draft] if draft is not None and draft_too else []
    options: dict[str, Any] = {
        "vllm_config": worker.vllm_config,
        # Older workers on a CPU leave it to their model runner.
        "device": worker.device or worker.model_runner.device,
        "silence_seconds": silence_seconds,
    }
    received, report = install_weights(links, targets_of(worker), next_targets=following, **options)
    for target in following:
        _, of_draft = install_weights(links, [target], **options)
        report["models"] += of_draft["models"]
    return answer_to_update(received, report)


def update_weights_from_ipc(
    zmq_ctx: zmq.Context,
    zmq_handle: str,
    device_id: int,
    *,
    run: LoadWeights,
    post_hook: Callable[[], object] | None = None,
) -> None:
    """Stands where SGLang looks for `checkpoint_engine.worker.update_weights_from_ipc`.

    SGLang calls it once for the target model and, if it speculates with one, once more for the draft model, on the
    same address. What `receive_weights` says of digests and errors holds here, also of errors that SGLang's post-hook
    catches and logs.
    """
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", device_id) if cuda else torch.device("cpu")
    receive_weights(
        zmq_ctx,
        zmq_handle,
        device=device,
        device_uuid=f"GPU-{torch.cuda.get_device_properties(device).uuid}" if cuda else None,
        load_weights=run,
        post_hook=None if post_hook is None else lambda: _run_hook(post_hook),
    )


class _CaughtErrors(logging.Handler):
    """Keeps the first exception that was being handled while something was logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.first: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if self.first is None:
            self.first = sys.exc_info()[1]


def _run_hook(post_hook: Callable[[], object]) -> None:
    """SGLang's hook catches what goes wrong in it and logs a warning; the weights are not processed all the same."""
    log = logging.getLogger(post_hook.__module__)
    caught, level = _CaughtErrors(), log.level
    log.addHandler(caught)
    if not log.isEnabledFor(logging.WARNING):
        log.setLevel(logging.WARNING)
    try:
        post_hook()
    finally:
        log.setLevel(level)
        log.removeHandler(caught)
    if caught.first is not None:
        raise caught.first
