"""What vLLM's workers answer to the calls that `POST /collective_rpc` brings them, by either face."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from typing import Any

from .receive import ReceivedWeights
from .vllm_drafts import drafts_of, target_of
from .vllm_update import survey_models

# Below vLLM's own logger, so that it is printed as vLLM's lines are.
logger = logging.getLogger("vllm.weightcast")


def answer_of(call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a call answers, or its traceback as `error`.

    Where several workers raise, vLLM answers with the first one's error, and finds the others' answers in its queues at the
    next call, which then seems to have failed as well; and from then on each call gets answers to the one before
    (vllm/v1/executor/multiproc_executor.py, collective_rpc).
    """
    try:
        return call()
    except Exception:
        logger.exception("the call has failed")
        return {"error": traceback.format_exc()}


def answer_to_update(received: ReceivedWeights, report: dict[str, Any]) -> dict[str, Any]:
    return {"epoch": received.epoch, "version": received.version, "tensors": received.tensors, **report}


def survey_worker(worker: Any, address: str) -> dict[str, Any]:
    """Each model that may take weights in an exchange of its own says what it holds by itself."""
    along = [draft for draft in drafts_of(worker) if not draft.required]
    apart = [draft for draft in drafts_of(worker) if draft.required]
    device = worker.device or worker.model_runner.device
    for targets in ([target_of(worker), *along], apart):
        if targets:
            survey_models(address, targets, vllm_config=worker.vllm_config, device=device)
    return {}
