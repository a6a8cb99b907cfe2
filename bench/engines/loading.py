"""Processor time that vLLM's own loader takes for each tensor of a model of 128 experts: `python loading.py MODEL BUCKET...`.

MODEL: a folder for the model's configuration, which is written. Prints JSON: microseconds for each tensor, of vLLM's own
reload in one call as its workers do it, and of weightcast's in buckets of so many tensors, without and with a record of what
the loaders read, each the least of some runs in turn. Weights are tiny, so that next to nothing of it is copying.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.update(
    VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_KVCACHE_SPACE="1", VLLM_CPU_OMP_THREADS_BIND="nobind"
)

import torch  # noqa: E402
from transformers import Qwen3MoeConfig  # noqa: E402
from vllm import LLM  # noqa: E402
from vllm.config import set_current_vllm_config  # noqa: E402
from vllm.model_executor.model_loader.reload import layerwise  # noqa: E402
from weightcast import vllm_reload  # noqa: E402
from weightcast.messages import Open, Tensor  # noqa: E402
from weightcast.vllm_drafts import targets_of  # noqa: E402
from weightcast.vllm_update import ModelUpdate  # noqa: E402

sys.path.append(str(Path(__file__).parents[2] / "test/engines-real"))
from random_models import VOCABULARY, write_tokenizer  # noqa: E402

ROUNDS = 5
LAYERS, EXPERTS = 12, 128
HIDDEN, INTERMEDIATE, HEAD = 64, 32, 32


def configuration() -> Qwen3MoeConfig:
    sizes = Qwen3MoeConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=HEAD,
        max_position_embeddings=512,
        num_experts=EXPERTS,
        num_experts_per_tok=4,
        moe_intermediate_size=INTERMEDIATE,
        mlp_only_layers=[],
        norm_topk_prob=True,
    )
    sizes.architectures = ["Qwen3MoeForCausalLM"]
    sizes.dtype = "bfloat16"
    return sizes


def tensors() -> Iterator[tuple[str, torch.Tensor]]:
    """As the files of such a model have them."""

    def one(name: str, *shape: int) -> tuple[str, torch.Tensor]:
        return name, torch.zeros(shape, dtype=torch.bfloat16)

    yield one("model.embed_tokens.weight", VOCABULARY, HIDDEN)
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield one(f"{prefix}.{norm}.weight", HIDDEN)
        for name, rows in (("q_proj", 2 * HEAD), ("k_proj", HEAD), ("v_proj", HEAD)):
            yield one(f"{prefix}.self_attn.{name}.weight", rows, HIDDEN)
        yield one(f"{prefix}.self_attn.o_proj.weight", HIDDEN, 2 * HEAD)
        for norm in ("q_norm", "k_norm"):
            yield one(f"{prefix}.self_attn.{norm}.weight", HEAD)
        yield one(f"{prefix}.mlp.gate.weight", EXPERTS, HIDDEN)
        for expert in range(EXPERTS):
            for name in ("gate_proj", "up_proj"):
                yield one(f"{prefix}.mlp.experts.{expert}.{name}.weight", INTERMEDIATE, HIDDEN)
            yield one(f"{prefix}.mlp.experts.{expert}.down_proj.weight", HIDDEN, INTERMEDIATE)
    yield one("model.norm.weight", HIDDEN)
    yield one("lm_head.weight", VOCABULARY, HIDDEN)


def main() -> None:
    folder, buckets = sys.argv[1], [int(size) for size in sys.argv[2:]]
    configuration().save_pretrained(folder)
    write_tokenizer(folder)
    engine = LLM(folder, enforce_eager=True, max_model_len=256, load_format="dummy")
    worker: Any = engine.llm_engine.model_executor.driver_worker.worker  # type: ignore[attr-defined]
    model, config, device = worker.get_model(), worker.vllm_config, torch.device(worker.device)
    weights = list(tensors())
    # Experts on a CPU stay as they were packed at the start, so that this is refused: what it costs is the same.
    vllm_reload._is_packed_once = lambda _layer: False

    def of_vllm() -> None:
        with set_current_vllm_config(config):
            layerwise.initialize_layerwise_reload(model)
            model.load_weights(weights)
            layerwise.finalize_layerwise_reload(model, config.model_config)

    announced = [Tensor(name, "BF16", tuple(tensor.shape), 0) for name, tensor in weights]
    places = [(tensor.view(-1).view(torch.uint8), tensor) for _, tensor in weights]

    def ours(size: int, parts: bool) -> Callable[[], None]:
        opening = Open(2, str(device), 1, "a@b", b"", 0, False, accept_unproven=True, parts=parts)

        def update() -> None:
            with ModelUpdate(targets_of(worker), config, device) as one:
                one.begin(opening)
                one.parts.open(opening)
                for start in range(0, len(weights), size):
                    bucket = slice(start, start + size)
                    one.parts.unpack(announced[bucket], places[bucket])
                    one.load(weights[bucket])
                    one.parts.loaded()
                one.parts.finish()
                one.finish()
                assert (one.parts.kept() is not None) == parts

        return update

    def taken(run: Callable[[], None]) -> float:
        begun = time.process_time()
        run()
        return 1e6 * (time.process_time() - begun) / len(weights)

    runs: dict[str, Callable[[], None]] = {"vllm": of_vllm}
    for size in buckets:
        runs |= {str(size): ours(size, parts=False), f"{size} recorded": ours(size, parts=True)}
    with torch.no_grad():
        measured = [{name: taken(run) for name, run in runs.items()} for _ in range(ROUNDS)]
    least = {name: min(one[name] for one in measured) for name in runs}
    print(json.dumps({"tensors": len(weights), "microseconds": least}))


main()
