"""One of two tensor-parallel workers of a real vLLM on the CPU: `kept_parts_case.py RANK PORT OLD NEW`.

With its experts cut, and then with whole ones (expert-parallel), it takes the model OLD whole, then of NEW only what it said
that it keeps, then OLD and NEW without the tensors of which it keeps nothing, then NEW whole. As JSON it prints for both what it
keeps (`cuts`, by name), the shapes, and whether all live tensors are the same whichever way NEW came.
"""

from __future__ import annotations

import json
import os
import sys

rank, port, old, new = sys.argv[1:]
os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_DIST_IDENT": port}

import torch
from fake_rank import FakeRank, kept_of
from safetensors.torch import load_file
from vllm.config import set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.model_loader import get_model
from weightcast import vllm_reloadable
from weightcast.cuts import NOTHING, WHOLE
from weightcast.vllm_update import install_weights

RANKS = 2
_BUCKET = 7
"""Tensors of one: layers end in another bucket than they begin in."""
# What experts on the CPU compute with is not what is loaded, but they load as others do.
vllm_reloadable._is_packed_once = lambda layer: False


def buckets(tensors: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    names = sorted(tensors)
    return [
        {name: tensors[name] for name in names[at : at + _BUCKET]} for at in range(0, len(names), _BUCKET)
    ]


def configuration_of(expert_parallel: bool):
    return EngineArgs(
        model=old,
        tensor_parallel_size=RANKS,
        enable_expert_parallel=expert_parallel,
        enforce_eager=True,
        max_model_len=256,
        distributed_executor_backend="mp",
    ).create_engine_config()


def kept_by(configuration) -> dict[str, object]:
    with set_current_vllm_config(configuration):
        model = get_model(vllm_config=configuration)
    target = vllm_reloadable.Target("target", model, configuration.model_config)

    def take(links: dict[str, str]) -> None:
        install_weights(
            links, [target], vllm_config=configuration, device=torch.device("cpu"), silence_seconds=300
        )

    sender = FakeRank(1 << 24)
    try:
        asked = {"installed": True, "acceptUnproven": True}
        tensors = load_file(f"{old}/model.safetensors")
        before = sender.send(buckets(tensors), take, parts=True, **asked)
        token, cuts = kept_of(before)
        names = [name for bucket in buckets(tensors) for name in bucket]
        kept = dict(zip(names, cuts, strict=True))
        tensors = load_file(f"{new}/model.safetensors")
        announced = {name: tensor for name, tensor in tensors.items() if kept[name] != NOTHING}
        parts = {name: cut for name, cut in kept.items() if cut not in (WHOLE, NOTHING)}
        by_parts = sender.send(buckets(announced), take, parts, kept=token, **asked)
        for path in (old, new):
            tensors = load_file(f"{path}/model.safetensors")
            announced = {name: tensor for name, tensor in tensors.items() if kept[name] != NOTHING}
            spared = sender.send(buckets(announced), take, kept=token, **asked)
        whole = sender.send(buckets(tensors), take, **asked)
    finally:
        sender.close()
    return {
        "cuts": kept,
        "shapes": {name: list(tensor.shape) for name, tensor in tensors.items()},
        "equal": by_parts["installed"]["digests"]
        == spared["installed"]["digests"]
        == whole["installed"]["digests"],
        "changed": before["installed"]["digests"] != whole["installed"]["digests"],
        "coverage": [one["installed"]["coverage"] for one in (by_parts, spared)],
    }


configurations = {
    "tensor-parallel": configuration_of(expert_parallel=False),
    "expert-parallel": configuration_of(expert_parallel=True),
}
with set_current_vllm_config(configurations["tensor-parallel"]):
    init_distributed_environment(RANKS, int(rank), f"tcp://127.0.0.1:{port}", int(rank), backend="gloo")
    initialize_model_parallel(RANKS)
print(json.dumps({how: kept_by(configuration) for how, configuration in configurations.items()}))
