"""Processor time that vLLM's own loader takes for each tensor of a model of 128 experts: `python loading.py MODEL BUCKET...`.

MODEL: a folder for the model's configuration, which is written. Prints JSON: microseconds for each tensor, of vLLM's own
reload in one call as its workers do it, and of weightcast's whole exchange in buckets of so many tensors, without and with a
record of what the loaders read, each the least of some runs in turn. Weights are tiny, so that next to nothing of it is copying.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.update(
    VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_KVCACHE_SPACE="1", VLLM_CPU_OMP_THREADS_BIND="nobind"
)

import msgpack  # noqa: E402
import torch  # noqa: E402
from transformers import Qwen3MoeConfig  # noqa: E402
from vllm import LLM  # noqa: E402
from vllm.config import set_current_vllm_config  # noqa: E402
from vllm.model_executor.model_loader.reload import layerwise  # noqa: E402
from weightcast import receive, vllm_reloadable  # noqa: E402
from weightcast.vllm_drafts import targets_of  # noqa: E402
from weightcast.vllm_update import install_weights  # noqa: E402

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


class ScriptedLink:
    """What a rank asks, without the socket to it."""

    def __init__(self, frames: list[bytes]) -> None:
        self._frames = iter(frames)
        self.last: dict[str, Any] = {}

    def receive(self) -> bytes:
        return next(self._frames)

    def send(self, frame: bytes) -> None:
        self.last = msgpack.unpackb(frame)

    def wait_longer(self, seconds: float) -> None:
        """It never waits."""

    def close(self) -> None:
        """There is nothing to close."""


def exchange(weights: list[tuple[str, torch.Tensor]], size: int, memory: str, parts: bool) -> list[bytes]:
    """What a rank asks that sends so many tensors at a time, all through one slot, whose file is made."""
    loads: list[dict[str, Any]] = []
    most = 0
    for start in range(0, len(weights), size):
        entries, end = [], 0
        for name, tensor in weights[start : start + size]:
            entries.append({"name": name, "dtype": "BF16", "shape": list(tensor.shape), "offset": end})
            end += -(-tensor.nbytes // 256) * 256
        loads.append({"type": "load", "tensors": entries})
        most = max(most, end)
    with open(memory, "a+b") as file:
        file.truncate(max(most, file.tell()))
    opening = {"type": "open", "protocol": 2, "device": "HOST-0", "epoch": 1, "version": "a@b", "report": False}
    opening |= {"handle": memory.encode(), "bytes": most, "acceptUnproven": True, "parts": parts}
    return [msgpack.packb(one) for one in (opening, *loads, {"type": "release"}, {"type": "finish"})]


def main() -> None:
    folder, buckets = sys.argv[1], [int(size) for size in sys.argv[2:]]
    configuration().save_pretrained(folder)
    write_tokenizer(folder)
    engine = LLM(folder, enforce_eager=True, max_model_len=256, load_format="dummy")
    worker: Any = engine.llm_engine.model_executor.driver_worker.worker  # type: ignore[attr-defined]
    model, config, device = worker.get_model(), worker.vllm_config, torch.device(worker.device)
    weights = list(tensors())
    # Experts on a CPU stay as they were packed at the start, so that this is refused: what it costs is the same.
    vllm_reloadable._is_packed_once = lambda _layer: False

    def of_vllm() -> None:
        with set_current_vllm_config(config):
            layerwise.initialize_layerwise_reload(model)
            model.load_weights(weights)
            layerwise.finalize_layerwise_reload(model, config.model_config)

    def ours(size: int, parts: bool) -> Callable[[], None]:
        frames = exchange(weights, size, f"{memory}/allocation-1", parts)

        def update() -> None:
            link = ScriptedLink(frames)
            receive.RankLink = lambda *_values, **_named: link
            install_weights(
                {"HOST-0": ""}, targets_of(worker), vllm_config=config, device=device, silence_seconds=60
            )
            assert ("kept" in link.last) == parts and "error" not in link.last, link.last

        return update

    def taken(run: Callable[[], None]) -> float:
        begun = time.process_time()
        run()
        return 1e6 * (time.process_time() - begun) / len(weights)

    memory = tempfile.mkdtemp(prefix="weightcast-device-", dir="/dev/shm")
    runs: dict[str, Callable[[], None]] = {"vllm": of_vllm}
    for size in buckets:
        runs |= {str(size): ours(size, parts=False), f"{size} recorded": ours(size, parts=True)}
    try:
        with torch.no_grad():
            measured = [{name: taken(run) for name, run in runs.items()} for _ in range(ROUNDS)]
    finally:
        shutil.rmtree(memory)
    least = {name: min(one[name] for one in measured) for name in runs}
    print(json.dumps({"tensors": len(weights), "microseconds": least}))


main()
