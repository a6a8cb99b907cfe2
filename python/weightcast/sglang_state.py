"""What the processes of an SGLang that hold a model say of themselves in `GET /server_info`, before the engine is paused."""

from __future__ import annotations

import logging
from typing import Any

from .errors import WeightcastError
from .installed_versions import held_by
from .messages import PROTOCOL_VERSION
from .sglang_reload import check_proven
from .sglang_runners import exchanges_of, is_out_of_reach, runners_of, which
from .sglang_update import are_weights_released, check_manager

logger = logging.getLogger(__name__)

_UNREACHABLE = "SGLang has no way to change the weights of what drafts for this engine"


def add_state(output: Any, scheduler: Any) -> None:
    """To a scheduler's answer about its internal state. Changes nothing else, and never raises."""
    try:
        manager = getattr(scheduler, "weight_updater", scheduler)
        output.internal_state["weightcast"] = state_of(manager)
    except Exception:
        logger.exception("what an update of this engine would meet is not known")


def state_of(manager: Any) -> dict[str, Any]:
    """`src/engines/workers-said.ts` has its form."""
    return {
        "protocol": PROTOCOL_VERSION,
        "device": None,
        "refusal": _refusal_of(lambda: check_manager(manager)),
        "unproven": _refusal_of(lambda: _check_proven(manager)),
        # Weights are released and brought back without a trace at the routes.
        "isSteady": False,
        "draft": _draft(manager),
        "waiting": None,
        "held": held_by(
            runners_of(manager)[0].model, is_readable=not are_weights_released(manager) and not _moves_experts(manager)
        ),
    }


def _moves_experts(manager: Any) -> bool:
    """Whether SGLang itself has other experts lie in the target's parameters from one moment to the next (`--enable-eplb`)."""
    return getattr(runners_of(manager)[0], "eplb_manager", None) is not None


def _check_proven(manager: Any) -> None:
    for runner in runners_of(manager):
        check_proven(which(runner), runner.model)


def _refusal_of(check: Any) -> str | None:
    try:
        check()
    except WeightcastError as error:
        return str(error)
    except Exception as error:
        # SGLang's own checks raise what they like.
        return f"{type(error).__name__}: {error}"
    return None


def _draft(manager: Any) -> dict[str, Any] | None:
    said = {"takes": "none", "why": None, "refusal": None, "unproven": None}
    if is_out_of_reach(manager):
        # n-grams have no model.
        has_model = getattr(manager.draft_worker, "draft_worker", manager.draft_worker) is not None
        return {**said, "takes": "nothing", "why": _UNREACHABLE} if has_model else said
    exchanges = exchanges_of(manager)
    return None if exchanges is None else {**said, "takes": "apart" if exchanges == 2 else "none"}
