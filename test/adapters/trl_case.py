"""TRL's own AsyncGRPOTrainer sends its weights through ours: before training, and after each of two steps.

Its loss needs a kernel that only GPUs have, so that another one takes its place; the training loop, its queue of rollouts,
its callbacks and its weight sync are TRL's. Nothing is generated: rollouts come from a stub, as in TRL's tests.
"""

import json
import queue
import sys
import time

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast
from trl.experimental.async_grpo import AsyncGRPOConfig, AsyncGRPOTrainer, async_grpo_trainer
from trl.experimental.async_grpo.async_rollout_worker import RolloutSample

from held import check_held
from weightcast.trl import WeightTransfer


# It is of the GPU that there is not.
async_grpo_trainer.get_peak_flops_per_device = lambda *_: 1.0


class Trainer(AsyncGRPOTrainer):
    def compute_loss(self, model, inputs, **_):
        assert inputs["input_ids"].numel() > 0
        self._last_forward_time_s = 0.0
        return sum(parameter.float().square().mean() for parameter in model.parameters())


def sample(group):
    return RolloutSample(
        prompt=[{"role": "user", "content": "a"}],
        completion=[{"role": "assistant", "content": "a"}],
        input_ids=np.array([2, 2, 0]),
        completion_mask=np.array([0, 1, 1]),
        old_log_probs=np.zeros(3, dtype=np.float32),
        advantage=1.0,
        model_version=1,
        group_id=group,
        metrics={},
        enqueued_at=time.time(),
    )


class Rollouts:
    """Learns of each version right after its weights were sent, and looks what the engine holds."""

    def __init__(self, endpoint):
        self.rollout_buffer, self.metrics_queue = queue.Queue(), queue.Queue()
        self.endpoint, self.trainer, self.seen = endpoint, None, []

    def start(self):
        assert self.seen == [1], "the first weights are there before the first rollout"
        # More than two steps take: the loader looks ahead.
        for group in range(8):
            self.rollout_buffer.put_nowait(sample(group))

    def stop(self):
        pass

    def check_health(self, stale_after_s):
        pass

    def update_model_version(self, model_version):
        if self.trainer is None:
            return
        weights = dict(self.trainer.accelerator.unwrap_model(self.trainer.model).named_parameters())
        check_held(self.endpoint, weights)
        self.seen.append(model_version)


def main(given):
    words = {word: number for number, word in enumerate(("<eos>", "<unk>", "a"))}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="<unk>")), eos_token="<eos>", unk_token="<unk>"
    )
    rollouts = Rollouts(given["endpoint"])
    transfer = WeightTransfer(given["endpoint"], socket=given["socket"], update={"timeout": 100.0})
    trainer = Trainer(
        model=given["model"],
        args=AsyncGRPOConfig(
            given["scratch"],
            max_steps=2,
            learning_rate=1e-1,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=1,
            weight_sync_steps=1,
            token_budget=0,
            dtype="bfloat16",
            report_to="none",
            save_strategy="no",
            use_cpu=True,
        ),
        train_dataset=Dataset.from_dict({"prompt": ["a"]}),
        processing_class=tokenizer,
        reward_funcs=[lambda **_: [0.0]],
        rollout_worker=rollouts,
        weight_transfer=transfer,
    )
    rollouts.trainer = trainer
    trainer.train()
    assert rollouts.seen == [1, 2, 3], rollouts.seen
    (outcome,) = transfer.last_update.report.instances
    assert (outcome.outcome, outcome.proofs["arrived"]) == ("updated", "holds"), outcome
    assert transfer._publisher is None, "the trainer has ended it"


main(json.loads(sys.argv[1]))
