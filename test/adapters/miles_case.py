"""Two rounds of miles' weight update, with a stand-in for what miles publishes of its interface: its package is in no index.

The stand-in has the names, the signatures and the order of calls of miles' `weight_update/protocol.py` and `updater.py`.
"""

import json
import sys
from abc import ABC, abstractmethod
from argparse import Namespace
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

import torch
from transformers import AutoModelForCausalLM

from held import check_held
from weightcast.client import Client, UsageError
from weightcast.miles import build_protocol

told = []


@dataclass(frozen=True)
class WeightUpdatePlacement:
    gather_pp: bool


class WeightTransferProtocol(ABC):
    required_placement = WeightUpdatePlacement(gather_pp=False)
    supports_lora = False
    use_weight_update_session = True
    needs_base_resync_for_lora = False

    def __init__(self, args):
        self.args = args
        self.rollout_engines = None
        self.is_sender = None
        self.group_name = "miles"
        self.update_weight_metrics = {}

    @abstractmethod
    def connect(self, rollout_engines, engine_gpu_counts, engine_gpu_offsets, parallel_state, placement, selector): ...

    def begin_sync(self, weight_version, iter_buckets):
        return True

    @abstractmethod
    def send_bucket(self, bucket): ...

    def after_base_weights(self):
        pass

    def finalize(self, weight_version):
        pass

    def after_engines_resumed(self):
        pass

    def pop_metrics(self):
        metrics, self.update_weight_metrics = self.update_weight_metrics, {}
        return metrics


def install_interface():
    package = "miles.backends.training_utils.weight_update"
    parts = package.split(".")
    for end in range(1, len(parts) + 1):
        sys.modules[".".join(parts[:end])] = ModuleType(".".join(parts[:end]))
    for name, content in {
        "protocol": {"WeightTransferProtocol": WeightTransferProtocol},
        "hf_weight_iterator": {"WeightUpdatePlacement": WeightUpdatePlacement},
        "session": {"set_weight_version": lambda engines, version: told.append((list(engines), version))},
    }.items():
        module = sys.modules[f"{package}.{name}"] = ModuleType(f"{package}.{name}")
        vars(module).update(content)


def buckets(model):
    tensors = [(name, tensor.detach().clone()) for name, tensor in model.named_parameters()]
    return [tensors[start : start + 10] for start in range(0, len(tensors), 10)]


def update_weights(protocol, weight_version, model):
    assert protocol.begin_sync(weight_version, lambda **_: iter(buckets(model))) is True
    for bucket in buckets(model):
        protocol.send_bucket(bucket)
    protocol.after_base_weights()
    protocol.finalize(weight_version)
    protocol.after_engines_resumed()


def main(given):
    install_interface()
    model = AutoModelForCausalLM.from_pretrained(given["model"], dtype=torch.bfloat16)
    # The reference engine has vLLM's routes; it is in the cluster already, or comes into it on devices 0 and 1.
    options = {"socket": given["socket"], "instance": {"engine": "vllm"}, "update": {"timeout": 100.0}}
    protocol = build_protocol(Namespace(weightcast=options))
    assert isinstance(protocol, WeightTransferProtocol) and protocol.required_placement.gather_pp
    assert not protocol.use_weight_update_session, "the daemon pauses and resumes"

    engines = [SimpleNamespace(server_url=given["endpoint"])]
    protocol.connect(engines, [2], [0], None, WeightUpdatePlacement(gather_pp=True), "all")
    assert protocol.is_sender
    for weight_version in (1, 2):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        if weight_version == 2:
            # A round that fails on its way is given up when the next one begins.
            protocol.begin_sync(weight_version, None)
            protocol.send_bucket(buckets(model)[0])
        update_weights(protocol, weight_version, model)
        check_held(given["endpoint"], dict(model.named_parameters()))
        assert told[-1] == (engines, weight_version)
        assert protocol.pop_metrics()["perf/weightcast_update_seconds"] > 0

    # miles says who has taken the place of an engine that died.
    protocol.connect([SimpleNamespace(server_url=f"{given['endpoint']}/")], [2], [0], None, None, "all")
    (instance,) = Client(given["socket"]).status().instances
    assert (instance.ranks, instance.state) == ([0, 1], "serving"), instance
    for unusable in ([], [object()]):
        try:
            protocol.connect(unusable, None, None, None, None, "all")
        except UsageError as error:
            assert "\n" not in str(error)
        else:
            raise AssertionError(f"{unusable} are no engines")


main(json.loads(sys.argv[1]))
