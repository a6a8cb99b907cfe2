"""Writes small models with random weights that vLLM serves: `make_models.py DIRECTORY`.

`A` and `B` are of one family and differ in every weight, and so do `experts-A` and `experts-B`, of which neither the vocabulary
nor the heads of keys can be shared out evenly; `tied` has one tensor for embedding and head. `begun` is what
becomes of A when an update to B breaks off: it has B's weights in the modules that `BEGUN` fills. `short` is a B
without the tensors in `SHORT`, `misshapen` an A in which one tensor fits no parameter.
"""

from __future__ import annotations

import shutil
import sys

import torch
from random_models import VOCABULARY, write_random_model
from safetensors.torch import load_file, save_file
from transformers import Qwen3Config, Qwen3MoeConfig

BEGUN = ("model.embed_tokens.", "model.layers.0.", "model.layers.1.input_layernorm.")
MISSHAPEN = "model.layers.1.self_attn.k_proj.weight"
SHORT = ("model.layers.2.mlp.down_proj.weight", "model.norm.weight")


def configuration(*, tied: bool) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=1_024,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=128,
        max_position_embeddings=1_024,
        bos_token_id=3,
        eos_token_id=1,
        tie_word_embeddings=tied,
    )


def experts() -> Qwen3MoeConfig:
    return Qwen3MoeConfig(
        vocab_size=VOCABULARY + 3,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=64,
        max_position_embeddings=1_024,
        num_experts=8,
        num_experts_per_tok=2,
        moe_intermediate_size=128,
        norm_topk_prob=True,
        bos_token_id=3,
        eos_token_id=1,
        tie_word_embeddings=False,
    )


def write_mixture(directory: str, source: str, tensors: dict[str, torch.Tensor]) -> None:
    shutil.copytree(source, directory)
    save_file(tensors, f"{directory}/model.safetensors", metadata={"format": "pt"})


root = sys.argv[1]
for name, seed, is_tied in (("A", 1, False), ("B", 2, False), ("tied", 3, True)):
    write_random_model(f"{root}/{name}", configuration(tied=is_tied), seed)
for letter, seed in (("A", 4), ("B", 5)):
    write_random_model(f"{root}/experts-{letter}", experts(), seed)
old, new = (load_file(f"{root}/{name}/model.safetensors") for name in "AB")
write_mixture(f"{root}/begun", f"{root}/A", old | {name: new[name] for name in new if name.startswith(BEGUN)})
write_mixture(f"{root}/short", f"{root}/B", {name: new[name] for name in new if name not in SHORT})
write_mixture(f"{root}/misshapen", f"{root}/A", old | {MISSHAPEN: torch.zeros(3, 5, dtype=torch.bfloat16)})
