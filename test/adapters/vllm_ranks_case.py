"""A trainer of two ranks sends its weights through vLLM's factory: ranks that both hold all, and ranks that hold parts."""

import json
import multiprocessing
import os
import sys

import torch
from transformers import AutoModelForCausalLM
from vllm.distributed.weight_transfer.base import ModuleSource, ParamMeta, WeightSource
from vllm.distributed.weight_transfer.clients import HTTPVLLMWeightSyncClient
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

from held import check_held
from weightcast.client import UsageError
from weightcast.vllm_trainer import WeightcastTrainerInitInfo

RANKS = 2


class PartSource(WeightSource):
    """Rank r of n has each n-th tensor, and the first one besides; None stands for the others, as vLLM asks."""

    def __init__(self, model, rank, without=None):
        self.weights = dict(model.named_parameters())
        names = list(self.weights)
        self.held = set(names[rank::RANKS] + names[:1]) - {without}

    def metadata(self):
        return [ParamMeta(name, one.dtype, tuple(one.shape)) for name, one in self.weights.items()]

    def held_names(self):
        return self.held

    def __iter__(self):
        for group in self.groups():
            for name in group:
                yield name, self.weights[name].detach() if name in self.held else None


def train(rank, given):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{given['scratch']}/rendezvous", rank=rank, world_size=RANKS
    )
    model = AutoModelForCausalLM.from_pretrained(given["model"], dtype=torch.bfloat16)
    info = WeightcastTrainerInitInfo(
        rank=rank, world_size=RANKS, connection={"socket": given["socket"]}, update={"timeout": 100.0}
    )
    client = HTTPVLLMWeightSyncClient(given["endpoint"])
    missing = "lm_head.weight"
    try:
        WeightTransferTrainerFactory.trainer_init(info, client=client, source=PartSource(model, rank, missing))
    except UsageError as error:
        assert missing in str(error), error
    else:
        raise AssertionError("a tensor that no rank holds is sent")
    for number, source in enumerate((ModuleSource(model), PartSource(model, rank))):
        trainer = WeightTransferTrainerFactory.trainer_init(info, client=client, source=source)
        assert trainer.is_sender == (rank == 0)
        for step in range(2):
            torch.manual_seed(2 * number + step)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter))
            trainer.send_weights()
            if rank == 0:
                check_held(given["endpoint"], dict(model.named_parameters()))
        # The other one may send its last share until then.
        torch.distributed.barrier()
        trainer.shutdown()


def main(given):
    # Forked, so that vLLM is imported once.
    context = multiprocessing.get_context("fork")
    other = context.Process(target=train, args=(1, given))
    other.start()
    try:
        train(0, given)
        other.join(60)
        assert other.exitcode == 0, other.exitcode
    finally:
        other.kill()


# More threads than processors make it slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)
main(json.loads(sys.argv[1]))
