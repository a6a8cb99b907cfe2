"""Writes small models with random weights for vLLM, in pairs A and B: `models.py DIRECTORY FAMILY...`.

Families: `dense`, `large`, `tied`, `experts` and `latent` in BF16, and `dense-fp8`, `experts-fp8`, `latent-fp8` and
`gate-without-scale-fp8`, whose projections are FP8 with a scale for each block of 128 x 128, as DeepSeek-V3 has them. The
last one does not say that its experts' gate is in BF16, so vLLM takes that for FP8 whose scale the files lack. `latent` is
a small DeepSeek-V3: latent attention (MLA), shared experts beside the others, and a layer that drafts (MTP). `large` is
not small: 42 layers of Qwen3-8B's sizes, 16.2 GB. Tokens are the words w0 ... w2047.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from latent import write_latent
from safetensors.torch import load_file, save_file
from transformers import Qwen3Config, Qwen3MoeConfig

sys.path.append(str(Path(__file__).parents[2] / "test/engines-real"))
from random_models import VOCABULARY, write_random_model, write_tokenizer  # noqa: E402

LAYERS = 4
BLOCK = 128
SEEDS = {"A": 1, "B": 2}
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 1_024,
    "intermediate_size": 2_048,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "max_position_embeddings": 2_048,
    "bos_token_id": 3,
    "eos_token_id": 1,
}
LARGE = {
    **SIZES,
    "hidden_size": 4_096,
    "intermediate_size": 12_288,
    "num_hidden_layers": 42,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
EXPERTS = {
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 256,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
}
GATES = [f"model.layers.{layer}.mlp.gate" for layer in range(LAYERS)]
HEAD = ["lm_head"]


def configuration(family: str) -> Qwen3Config | Qwen3MoeConfig:
    if family in ("experts", "gate-without-scale"):
        return Qwen3MoeConfig(**SIZES, **EXPERTS, tie_word_embeddings=False)
    if family == "large":
        return Qwen3Config(**LARGE, tie_word_embeddings=False)
    return Qwen3Config(**SIZES, tie_word_embeddings=family == "tied")


def quantise(directory: str, kept: list[str]) -> None:
    """Rewrites a BF16 model's projections as FP8. `kept`: modules that the configuration names as not converted."""
    tensors = {}
    for name, tensor in load_file(f"{directory}/model.safetensors").items():
        if not name.endswith(("proj.weight", "with_mqa.weight")) or name.endswith("eh_proj.weight"):
            tensors[name] = tensor
            continue
        rows, columns = tensor.shape
        # A block at the edge may be smaller.
        whole = torch.nn.functional.pad(tensor.float(), (0, -columns % BLOCK, 0, -rows % BLOCK))
        blocks = whole.view(whole.shape[0] // BLOCK, BLOCK, whole.shape[1] // BLOCK, BLOCK)
        scale = blocks.abs().amax((1, 3)) / torch.finfo(torch.float8_e4m3fn).max
        quantised = (blocks / scale[:, None, :, None]).view(whole.shape).to(torch.float8_e4m3fn)
        tensors[name] = quantised[:rows, :columns].contiguous()
        tensors[f"{name}_scale_inv"] = scale
    save_file(tensors, f"{directory}/model.safetensors", metadata={"format": "pt"})
    with open(f"{directory}/config.json", encoding="utf-8") as file:
        settings = json.load(file)
    settings["quantization_config"] = {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "weight_block_size": [BLOCK, BLOCK],
        "modules_to_not_convert": kept,
    }
    with open(f"{directory}/config.json", "w", encoding="utf-8") as file:
        json.dump(settings, file)


root, *families = sys.argv[1:]
for wanted in families:
    base = wanted.removesuffix("-fp8")
    for letter, first in SEEDS.items():
        written = f"{root}/{wanted}-{letter}"
        if base == "latent":
            write_latent(written, first)
            write_tokenizer(written)
        else:
            write_random_model(written, configuration(base), first)
        if wanted != base:
            quantise(written, HEAD + GATES if base == "experts" else HEAD)
