"""vLLM's trainer side sends models to a vLLM, which then answers as they do: `trainer_case.py '{"models": [...], ...}'`."""

import json
import sys
import urllib.request

import torch
from transformers import AutoModelForCausalLM
from vllm.distributed.weight_transfer.base import ModuleSource
from vllm.distributed.weight_transfer.clients import HTTPVLLMWeightSyncClient
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

from weightcast.vllm_trainer import WeightcastTrainerInitInfo

PROMPT = [5, 6, 7, 8, 9, 10, 11, 12]
#: Both compute in BF16, in different orders.
TOLERANCE = 0.15


def of_engine(endpoint):
    body = {"model": "m", "prompt": PROMPT, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
    request = urllib.request.Request(
        f"{endpoint}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        entries = json.load(answer)["choices"][0]["prompt_logprobs"][1:]
    return torch.tensor([next(iter(entry.values()))["logprob"] for entry in entries])


def of_model(model):
    with torch.no_grad():
        logprobs = model(torch.tensor([PROMPT])).logits[0].float().log_softmax(-1)
    return logprobs[:-1].gather(-1, torch.tensor(PROMPT[1:])[:, None])[:, 0]


def main(given):
    models = [AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16) for path in given["models"]]
    for model, other in (models, models[::-1]):
        trainer = WeightTransferTrainerFactory.trainer_init(
            WeightcastTrainerInitInfo(rank=0, connection={"socket": given["socket"]}),
            client=HTTPVLLMWeightSyncClient(given["endpoint"]),
            source=ModuleSource(model),
        )
        trainer.send_weights()
        (outcome,) = trainer.last_update.report.instances
        assert outcome.outcome == "updated" and outcome.proofs["arrived"] == "holds", outcome
        trainer.shutdown()
        answers = of_engine(given["endpoint"])
        assert (answers - of_model(model)).abs().max() < TOLERANCE, (answers, of_model(model))
        assert (answers - of_model(other)).abs().max() > 3 * TOLERANCE, (answers, of_model(other))


main(json.loads(sys.argv[1]))
