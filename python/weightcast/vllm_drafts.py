"""Which draft models of a vLLM worker take the weights of its target.

Drafts affect how fast an engine answers, never what: one that keeps its weights is not wrong, but accepted less often.
"""

from __future__ import annotations

from typing import Any

import torch

from .errors import ModelNotReloadable
from .vllm_reloadable import Target

NO_DRAFT = "this engine has no draft model that takes weights"
NONE_APART = "this engine has no draft model that takes the weights apart from its target"

_WITHOUT_WEIGHTS = ("ngram", "ngram_gpu", "suffix", "extract_hidden_states")

_FORM = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "moe_intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
)
"""Of a model's configuration: what decides about names and shapes in its files."""


def targets_of(worker: Any) -> list[Target]:
    """The worker's model and, if it drafts with layers out of the same checkpoint (MTP), its draft model.

    Any other draft model would refuse the target's names, or take them for its own, in between: `draft_apart`.
    """
    return [target_of(worker), *(draft for draft in drafts_of(worker) if not draft.required)]


def target_of(worker: Any) -> Target:
    return Target("target", worker.get_model(), worker.model_config)


def drafts_of(worker: Any) -> list[Target]:
    """The worker's draft model, if it has one that has weights. One out of the target's checkpoint may find nothing there."""
    draft = _draft_model_of(worker)
    if draft is None:
        return []
    speculation = _speculation_of(worker)
    return [Target("draft", draft, speculation.draft_model_config, required=not _is_out_of_target(speculation))]


def draft_apart(worker: Any) -> Target | None:
    """The worker's draft model if it is made of files of its own (EAGLE, another model)."""
    return next((draft for draft in drafts_of(worker) if draft.required), None)


def check_draft(vllm_config: Any) -> None:
    """Raises ModelNotReloadable unless the draft model can take all weights once more, in an exchange of its own."""
    refusal = refusal_of_draft(vllm_config)
    if refusal is not None:
        raise ModelNotReloadable(f"{refusal}: leave hasDraftModel (--draft-model) out")


def refusal_of_draft(vllm_config: Any) -> str | None:
    """Why the draft model cannot take the weights of the target; None if it can. Of all methods of vLLM 0.32 these can:

    - `mtp` passes over the names of all other layers;
    - `draft_model` has the names of a target, and takes a checkpoint of its own form.

    `eagle`, `eagle3` and Gemma's `mtp` raise an error at names of a target; `dflash`, `dspark` and `medusa` have other
    names too, and want all their tensors in one call; what a custom class does is not known.
    """
    speculation = getattr(vllm_config, "speculative_config", None)
    draft = getattr(speculation, "draft_model_config", None)
    if draft is None or speculation.method in _WITHOUT_WEIGHTS:
        return NO_DRAFT
    if _is_out_of_target(speculation):
        return None
    if speculation.method != "draft_model":
        return (
            f"the draft model of this engine ({speculation.method}) has tensors of its own, which are not the target's, and keeps "
            "them until the engine is started with others (--speculative-config)"
        )
    for name in _FORM:
        sizes = [getattr(one.hf_text_config, name, None) for one in (draft, vllm_config.model_config)]
        if sizes[0] != sizes[1]:
            return f"the draft model of this engine has another {name} than its target: {sizes[0]}, not {sizes[1]}"
    forms = [_quantisation_of_files(one) for one in (draft, vllm_config.model_config)]
    if forms[0] != forms[1]:
        return f"the files of this engine's draft model have another quantisation than its target's: {forms[0]}, not {forms[1]}"
    return None


def _quantisation_of_files(model_config: Any) -> str | None:
    """Not what the engine makes of them: a bf16 checkpoint may be quantised when it is loaded."""
    found = getattr(getattr(model_config, "hf_config", None), "quantization_config", None)
    return found.get("quant_method") if isinstance(found, dict) else getattr(found, "quant_method", None)


def _is_out_of_target(speculation: Any) -> bool:
    # Gemma's is an assistant with files of its own, and takes every name for one of its layers.
    is_gemma = getattr(speculation, "use_gemma4_mtp", None)
    return speculation.method.endswith("mtp") and not (is_gemma is not None and is_gemma())


def _speculation_of(worker: Any) -> Any:
    return worker.vllm_config.speculative_config


def _draft_model_of(worker: Any) -> Any | None:
    """Without those that have no weights, as what only extracts hidden states."""
    model = _proposing_model_of(worker)
    if model is None or _speculation_of(worker) is None:
        return None
    is_empty = isinstance(model, torch.nn.Module) and next(model.parameters(), None) is None
    return None if is_empty else model


def _proposing_model_of(worker: Any) -> Any | None:
    ask = getattr(worker, "get_draft_model", None)
    if ask is not None:
        return ask()
    # Older than that: the second model runner's name, then the first one's.
    for name in ("speculator", "drafter"):
        model = getattr(getattr(worker.model_runner, name, None), "model", None)
        # Captured graphs stand around it.
        if model is not None and not isinstance(model, torch.nn.Module):
            model = getattr(model, "unwrap", lambda: None)()
        if model is not None:
            return model
    return None
