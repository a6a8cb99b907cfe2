"""A small DeepSeek-V3 with random weights, as its checkpoints are: names, latent attention, experts, and a layer of MTP."""

from __future__ import annotations

import json
import os

import torch
from safetensors.torch import save_file

LAYERS = 4
HIDDEN = 1_024
EXPERTS = 16
INNER = 256
DENSE_INNER = 2_048
HEADS = 8
QUERY_RANK = 512
KEY_RANK = 512
ROTARY = 64
HEAD = 128
VOCABULARY = 2_048

CONFIGURATION = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "torch_dtype": "bfloat16",
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": DENSE_INNER,
    "moe_intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_nextn_predict_layers": 1,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "n_shared_experts": 1,
    "n_routed_experts": EXPERTS,
    "num_experts_per_tok": 4,
    "routed_scaling_factor": 2.5,
    "n_group": 4,
    "topk_group": 2,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "norm_topk_prob": True,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "q_lora_rank": QUERY_RANK,
    "kv_lora_rank": KEY_RANK,
    "qk_nope_head_dim": HEAD,
    "qk_rope_head_dim": ROTARY,
    "v_head_dim": HEAD,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000,
    "max_position_embeddings": 2_048,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "bos_token_id": 3,
    "eos_token_id": 1,
}


def _feed_forward(prefix: str, inner: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{prefix}.gate_proj.weight": (inner, HIDDEN),
        f"{prefix}.up_proj.weight": (inner, HIDDEN),
        f"{prefix}.down_proj.weight": (HIDDEN, inner),
    }


def _layer(layer: int) -> dict[str, tuple[int, ...]]:
    prefix = f"model.layers.{layer}"
    attention = f"{prefix}.self_attn"
    shapes: dict[str, tuple[int, ...]] = {
        f"{prefix}.input_layernorm.weight": (HIDDEN,),
        f"{prefix}.post_attention_layernorm.weight": (HIDDEN,),
        f"{attention}.q_a_proj.weight": (QUERY_RANK, HIDDEN),
        f"{attention}.q_a_layernorm.weight": (QUERY_RANK,),
        f"{attention}.q_b_proj.weight": (HEADS * (HEAD + ROTARY), QUERY_RANK),
        f"{attention}.kv_a_proj_with_mqa.weight": (KEY_RANK + ROTARY, HIDDEN),
        f"{attention}.kv_a_layernorm.weight": (KEY_RANK,),
        f"{attention}.kv_b_proj.weight": (HEADS * 2 * HEAD, KEY_RANK),
        f"{attention}.o_proj.weight": (HIDDEN, HEADS * HEAD),
    }
    if layer < CONFIGURATION["first_k_dense_replace"]:
        return shapes | _feed_forward(f"{prefix}.mlp", DENSE_INNER)
    for expert in range(EXPERTS):
        shapes |= _feed_forward(f"{prefix}.mlp.experts.{expert}", INNER)
    shapes |= _feed_forward(f"{prefix}.mlp.shared_experts", INNER)
    return shapes | {
        f"{prefix}.mlp.gate.weight": (EXPERTS, HIDDEN),
        f"{prefix}.mlp.gate.e_score_correction_bias": (EXPERTS,),
    }


def _shapes() -> dict[str, tuple[int, ...]]:
    shapes = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for layer in range(LAYERS + 1):
        shapes |= _layer(layer)
    drafting = f"model.layers.{LAYERS}"
    return shapes | {
        f"{drafting}.embed_tokens.weight": (VOCABULARY, HIDDEN),
        f"{drafting}.enorm.weight": (HIDDEN,),
        f"{drafting}.hnorm.weight": (HIDDEN,),
        f"{drafting}.eh_proj.weight": (HIDDEN, 2 * HIDDEN),
        f"{drafting}.shared_head.norm.weight": (HIDDEN,),
        f"{drafting}.shared_head.head.weight": (VOCABULARY, HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (VOCABULARY, HIDDEN),
    }


def write_latent(directory: str, seed: int) -> None:
    """In BF16, without a tokenizer."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(seed)
    tensors = {}
    for name, shape in _shapes().items():
        if name.endswith("e_score_correction_bias"):
            tensors[name] = torch.rand(shape, generator=generator, device=device) / 10
        elif len(shape) == 1:
            tensors[name] = (torch.rand(shape, generator=generator, device=device) + 0.5).bfloat16()
        else:
            tensors[name] = (torch.randn(shape, generator=generator, device=device) * 0.05).bfloat16()
    # The draft's are the model's own, as in DeepSeek's files.
    tensors[f"model.layers.{LAYERS}.embed_tokens.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors[f"model.layers.{LAYERS}.shared_head.head.weight"] = tensors["lm_head.weight"].clone()
    os.makedirs(directory, exist_ok=True)
    tensors = {name: tensor.cpu() for name, tensor in tensors.items()}
    save_file(tensors, f"{directory}/model.safetensors", metadata={"format": "pt"})
    with open(f"{directory}/config.json", "w", encoding="utf-8") as file:
        json.dump(CONFIGURATION, file)
