"""What a vLLM worker says of itself before its engine is paused: what an update would be refused for, who takes the weights,
and what they take of the device's memory."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch

from .errors import WeightcastError
from .installed_versions import held_by
from .messages import PROTOCOL_VERSION
from .model_layers import named_layers
from .vllm_drafts import draft_apart, drafts_of, refusal_of_draft, target_of
from .vllm_experts import check_experts, share_of_experts
from .vllm_live import refuse_moved_experts
from .vllm_reload import check_reloadable, is_layerwise
from .vllm_reloadable import Target
from .vllm_sleep import are_weights_awake, refuse_if_asleep

# Below vLLM's own logger, so that it is printed as vLLM's lines are.
logger = logging.getLogger("vllm.weightcast")


def state_of(worker: Any, *, in_sessions: bool) -> dict[str, Any]:
    """The answer to `weightcast_protocol`; `src/engines/workers-said.ts` has its form. Changes nothing, and never raises: of a
    call that fails in several workers, vLLM would leave answers behind.

    `in_sessions`: all drafts take the weights apart, as vLLM's sessions are of one model each.
    """
    said: dict[str, Any] = {"protocol": PROTOCOL_VERSION}
    try:
        said |= _looked_at(worker, in_sessions)
    except Exception:
        logger.exception("what an update of this worker would meet is not known")
    return said


def _looked_at(worker: Any, in_sessions: bool) -> dict[str, Any]:
    vllm_config = worker.vllm_config
    device = worker.device or worker.model_runner.device
    target, drafts = target_of(worker), drafts_of(worker)
    apart = drafts if in_sessions else [draft for draft in [draft_apart(worker)] if draft is not None]
    taking = [] if refusal_of_draft(vllm_config) is not None else apart
    along = [target, *(draft for draft in drafts if draft not in apart)]
    return {
        "device": _uuid_of(device),
        "refusal": _refusal(along, vllm_config),
        "unproven": _unproven(along),
        "isSteady": not _may_change(vllm_config),
        "draft": _draft(drafts, apart, taking, vllm_config),
        "waiting": _waiting(target, device),
        "held": held_by(target.model, is_readable=are_weights_awake() and not _moves_weights(vllm_config)),
    }


def _refusal(targets: Sequence[Target], vllm_config: Any) -> str | None:
    try:
        refuse_if_asleep()
        for target in targets:
            refuse_moved_experts(target, vllm_config)
            check_reloadable(target)
    except WeightcastError as error:
        return str(error)
    return None


def _unproven(targets: Sequence[Target]) -> str | None:
    if not is_layerwise():
        return None
    try:
        for target in targets:
            for _, layer in named_layers(target.model):
                check_experts(layer, target.which)
    except WeightcastError as error:
        return str(error)
    return None


def _draft(
    drafts: Sequence[Target], apart: Sequence[Target], taking: Sequence[Target], vllm_config: Any
) -> dict[str, Any]:
    """`takes`: what of the weights of an update: `along` with the target, `apart` if it is told that there is a draft model,
    or nothing. `why` it keeps its own, or what is to be done that it does not."""
    if not drafts:
        return {"takes": "none", "why": None, "refusal": None, "unproven": None}
    if not apart:
        return {"takes": "along", "why": None, "refusal": None, "unproven": None}
    if not taking:
        return {"takes": "nothing", "why": refusal_of_draft(vllm_config), "refusal": None, "unproven": None}
    why = "it takes the weights if the instance has hasDraftModel (--draft-model)"
    return {"takes": "apart", "why": why, "refusal": _refusal(taking, vllm_config), "unproven": _unproven(taking)}


def _may_change(vllm_config: Any) -> bool:
    """Whether what was said may be otherwise a moment later: experts move, weights fall asleep."""
    model = getattr(vllm_config, "model_config", None)
    return _moves_experts(vllm_config) or bool(getattr(model, "enable_sleep_mode", False))


def _moves_experts(vllm_config: Any) -> bool:
    return bool(getattr(getattr(vllm_config, "parallel_config", None), "enable_eplb", False))


def _moves_weights(vllm_config: Any) -> bool:
    """Whether vLLM itself has other weights lie in its parameters from one moment to the next."""
    offload = getattr(vllm_config, "offload_config", None)
    prefetched = getattr(getattr(offload, "prefetch", None), "offload_group_size", 0)
    return _moves_experts(vllm_config) or prefetched > 0


def _waiting(target: Target, device: torch.device) -> dict[str, float] | None:
    """Of what waits for the rest of its layer, copied out of the link buffer: the share of a layer's experts that this worker
    keeps. None where nothing waits, or in memory that is not the device's."""
    if device.type != "cuda" or not is_layerwise():
        return None
    return {"experts": share_of_experts(target.model)}


def _uuid_of(device: torch.device) -> str | None:
    if device.type != "cuda":
        return None
    from vllm.platforms import current_platform

    return str(current_platform.get_device_uuid(device.index))
