"""vLLM's own factory builds our trainer, whose two versions an engine then holds."""

import json
import sys

import torch
from transformers import AutoModelForCausalLM
from vllm.distributed.weight_transfer.base import ModuleSource
from vllm.distributed.weight_transfer.clients import HTTPVLLMWeightSyncClient, RayVLLMWeightSyncClient
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory, WeightTransferTrainerFactory
from vllm.plugins import load_general_plugins

from held import check_held
from weightcast.client_errors import EngineError, UsageError


def registered():
    assert "weightcast" not in WeightTransferTrainerFactory._registry
    load_general_plugins()
    for factory in (WeightTransferEngineFactory, WeightTransferTrainerFactory):
        assert "weightcast" in factory._registry, factory
    assert "weightcast.vllm_trainer" not in sys.modules, "it is imported when it is used"


def refused(info, client, source, words, kind=UsageError):
    try:
        WeightTransferTrainerFactory.trainer_init(info, client=client, source=source)
    except kind as error:
        assert words in str(error) and "\n" not in str(error), error
    else:
        raise AssertionError(f"not refused: {words}")


def holds_others(endpoint, tensors):
    try:
        check_held(endpoint, tensors)
    except AssertionError:
        return
    raise AssertionError("the engine has weights that nobody has sent")


def main(given):
    registered()
    from weightcast.vllm_trainer import WeightcastTrainer, WeightcastTrainerInitInfo

    model = AutoModelForCausalLM.from_pretrained(given["model"], dtype=torch.bfloat16)
    source, client = ModuleSource(model), HTTPVLLMWeightSyncClient(given["endpoint"])
    connection = {"socket": given["socket"]}
    info = WeightcastTrainerInitInfo(rank=0, connection=connection, update={"timeout": 100.0})
    refused(info, client, None, "WeightSource")
    refused(info, RayVLLMWeightSyncClient([]), source, "RayVLLMWeightSyncClient has no URL")
    refused(info, HTTPVLLMWeightSyncClient("http://127.0.0.1:1"), source, "how many workers", EngineError)
    refused(info, HTTPVLLMWeightSyncClient("localhost:8000"), source, "must be a URL")
    refused(WeightcastTrainerInitInfo(rank=0, world_size=2), client, source, "default group")

    trainer = WeightTransferTrainerFactory.trainer_init(info, client=client, source=source)
    assert type(trainer) is WeightcastTrainer and trainer.is_sender
    for _ in range(2):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        holds_others(given["endpoint"], dict(model.named_parameters()))
        trainer.send_weights()
        (outcome,) = trainer.last_update.report.instances
        assert (outcome.outcome, outcome.proofs["arrived"]) == ("updated", "holds"), outcome
        check_held(given["endpoint"], dict(model.named_parameters()))
    trainer.shutdown()


main(json.loads(sys.argv[1]))
