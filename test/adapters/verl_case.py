"""verl's own CheckpointEngineManager moves two versions from actor ranks to rollout workers through ours, on the CPU.

Its actors here have a model on the CPU in place of FSDP's, which takes a GPU; what moves weights is the method of verl's
actor. Its rollout workers are those of verl's tests, with the server adapter that keeps what it is given.
"""

import asyncio
import json
import os
import sys
import tempfile
from types import SimpleNamespace

import ray
import torch
from tests.checkpoint_engine.test_utils import CheckpointEngineWorkerTest, MockReplica
from transformers import AutoModelForCausalLM
from verl.checkpoint_engine import CheckpointEngineManager, CheckpointEngineRegistry
from verl.single_controller.base import Worker
from verl.single_controller.base.decorator import Dispatch, register
from verl.single_controller.ray import RayClassWithInitArgs, RayWorkerGroup
from verl.single_controller.ray.base import RayResourcePool
from verl.utils.import_utils import import_external_libs
from verl.workers.config import CheckpointEngineConfig, HFModelConfig, RolloutConfig
from verl.workers.engine_workers import ActorRolloutRefWorker

from held import check_held

ACTORS, ROLLOUTS = 2, 1


class Actor(ActorRolloutRefWorker):
    """With the parts that its update_weights and execute_checkpoint_engine use, made as verl makes them."""

    def __init__(self, path, config):
        Worker.__init__(self)
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)
        self.actor = SimpleNamespace(engine=self)
        self.config = SimpleNamespace(rollout=SimpleNamespace(checkpoint_engine=config))
        import_external_libs(config.custom_backend_module)
        self.checkpoint_engine = CheckpointEngineRegistry.new(
            config.backend,
            is_master=self.rank == 0,
            bucket_size=config.update_weights_bucket_megabytes << 20,
            **config.engine_kwargs.get(config.backend, {}),
        )

    def get_per_tensor_param(self):
        return ((name, tensor.clone()) for name, tensor in self.model.state_dict().items()), None

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def train(self, seed):
        torch.manual_seed(seed)
        step(self.model)


class Rollout(CheckpointEngineWorkerTest):
    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def received(self):
        return self.server_adapter.received_weights


def step(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))


def group(kind, count, *arguments, **named):
    pool = RayResourcePool(process_on_nodes=[count], use_gpu=False, max_colocate_count=1, name_prefix=kind.__name__)
    remote = RayClassWithInitArgs(ray.remote(kind), *arguments, **named)
    return RayWorkerGroup(resource_pool=pool, ray_cls_with_init=remote, device_name="cpu")


async def main(given):
    config = CheckpointEngineConfig(
        backend="weightcast",
        custom_backend_module="weightcast.verl",
        update_weights_bucket_megabytes=1,
        engine_kwargs={
            "weightcast": {
                "socket": given["socket"],
                # An engine that is not verl's.
                "engines": [given["endpoint"]],
                "update": {"timeout": 100.0},
            }
        },
    )
    model_config = HFModelConfig(path=given["model"], use_remove_padding=False)
    rollout_config = RolloutConfig(name="vllm", tensor_model_parallel_size=1, checkpoint_engine=config)
    actors = group(Actor, ACTORS, given["model"], config)
    rollouts = group(Rollout, ROLLOUTS, rollout_config, model_config)
    replicas = [MockReplica(replica_rank=rank, config=rollout_config, model_config=model_config) for rank in range(ROLLOUTS)]
    for replica in replicas:
        await replica.init_hybrid(rollouts)
    manager = CheckpointEngineManager(config=config, actor_wg=actors, replicas=replicas)
    assert manager.backend_cls.__module__ == "weightcast.verl"

    model = AutoModelForCausalLM.from_pretrained(given["model"], dtype=torch.bfloat16)
    # verl's own check: what came is what the files have.
    await manager.update_weights()
    rollouts.check_weights()
    for number in range(2):
        actors.train(number)
        torch.manual_seed(number)
        step(model)
        metrics = await manager.update_weights(global_steps=number)
        assert metrics["weightcast/publish_seconds"] > 0 and metrics["weightcast/update_seconds"] > 0, metrics
        weights = model.state_dict()
        for received in rollouts.received():
            assert received.keys() == weights.keys()
            assert all(torch.equal(received[name], tensor) for name, tensor in weights.items())
        check_held(given["endpoint"], weights)


# On a machine that is busy a node of Ray takes longer than it thinks.
os.environ["RAY_raylet_start_wait_time_s"] = "120"
# Of a short name, since Ray's sockets are in it.
with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as directory:
    ray.init(num_cpus=ACTORS + ROLLOUTS, include_dashboard=False, log_to_driver=False, _temp_dir=directory)
    try:
        asyncio.run(main(json.loads(sys.argv[1])))
    finally:
        ray.shutdown()
