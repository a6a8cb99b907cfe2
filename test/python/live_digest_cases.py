"""What of a model is found and digested, wherever its layers keep it: `python live_digest_cases.py`."""

from __future__ import annotations

import functools
import types
import unittest
from dataclasses import dataclass
from typing import Any

import fake_vllm
import torch
from fake_vllm import Layer, Model
from weightcast.digest import Digester
from weightcast.errors import ModelNotReloadable, ProtocolError
from weightcast.live_digests import LiveState, digests_of, forget
from weightcast.live_digests import Model as Whole
from weightcast.live_tensors import LiveTensors, Walks
from weightcast.messages import PROTOCOL_VERSION, check_protocol
from weightcast.model_layers import member_of, named_layers
from weightcast.torch_digest import TorchDigester
from weightcast.vllm_derived import DerivedTensors
from weightcast.vllm_live import refuse_moved_experts
from weightcast.vllm_reloadable import Target


def tensor(value: float) -> torch.Tensor:
    return torch.full((4,), float(value))


@dataclass
class Scales:
    w1: torch.Tensor
    note: str = "no tensor"


Scales.__module__ = "vllm.model_executor.layers.quantization.fp8"


class Kernel:
    __slots__ = ("packed",)

    def __init__(self, packed: torch.Tensor) -> None:
        self.packed = packed


class QuantMethod:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    def apply(self) -> None: ...


def layer_with_everything() -> Layer:
    layer = Layer("weight")
    layer.register_buffer("scale", tensor(2))
    layer.plain = tensor(3)
    layer.listed = [{"deep": (tensor(4),)}]
    layer.scales = Scales(tensor(5))
    packed, default = tensor(6), tensor(7)
    layer.forward_with = lambda x, _given=default: x + packed
    layer.partial = functools.partial(torch.add, tensor(8))
    layer.quant_method = QuantMethod(Kernel(tensor(9)))
    layer.bound = QuantMethod(Kernel(tensor(10))).apply
    return layer


def names_of(model: torch.nn.Module) -> dict[str, float]:
    found = LiveTensors(model, {}).by_name
    return {name: float(one.flatten()[0]) for name, one in found.items()}


class Finding(unittest.TestCase):
    def test_every_way_from_a_layer_to_a_tensor_is_gone(self) -> None:
        self.assertEqual(
            names_of(torch.nn.Sequential(layer_with_everything())),
            {
                "0.weight": 0,
                "0:scale": 2,
                "0:plain": 3,
                "0:listed[0].deep[0]": 4,
                "0:scales.w1": 5,
                "0:forward_with.packed": 6,
                "0:forward_with.defaults[0]": 7,
                "0:partial.args[0]": 8,
                "0:quant_method.kernel.packed": 9,
                "0:bound.self.kernel.packed": 10,
            },
        )

    def test_memory_has_the_name_of_its_parameter_and_is_listed_once_for_each_form(self) -> None:
        layer = Layer("weight", size=6)
        layer.again = layer.weight.data
        layer.turned = layer.weight.data.view(2, 3).t()
        layer.me = [layer]
        self.assertEqual(list(names_of(torch.nn.ModuleList([layer]))), ["0.weight", "0:turned"])

    def test_what_serving_writes_and_what_the_engine_owns_are_passed_over(self) -> None:
        layer = Layer("weight")
        layer.kv_cache = [tensor(1)]
        layer.moe_workspace, layer.topk_indices_buffer, layer.scratch = tensor(1), tensor(1), tensor(1)
        # As MLA's prefill does, that of the last request.
        layer.prefill = QuantMethod(Kernel(tensor(1)))
        layer.prefill._prefill_metadata = Scales(tensor(1))
        layer.prefill.kernel.packed, layer.block_table = layer.weight.data, tensor(1)
        config = type("VllmConfig", (), {"__module__": "vllm.config.vllm"})()
        config.layers = [tensor(1)]
        layer.vllm_config = config
        layer.empty, layer.meta = torch.empty(0), torch.empty(4, device="meta")
        self.assertEqual(list(names_of(torch.nn.ModuleList([layer]))), ["0.weight"])

    def test_what_torch_does_not_see_is_stood_for_or_said_to_be_opaque(self) -> None:
        layer = Layer("weight")
        layer.handle = Kernel(tensor(1))
        model = torch.nn.ModuleList([layer])
        found = LiveTensors(model, {"Kernel": lambda _path, _value: tensor(5)})
        self.assertEqual(float(found.by_name["0:handle"][0]), 5)
        self.assertEqual(LiveTensors(model, {"Kernel": lambda _path, _value: None}).opaque, ["0:handle"])


def digests(model: torch.nn.Module) -> dict[str, bytes]:
    return digests_of(list(LiveTensors(model, {}).by_name.items())).word_of()


    def test_layers_have_the_paths_and_the_order_that_torch_gives_them(self) -> None:
        shared = torch.nn.Linear(2, 2)
        block = torch.nn.ModuleDict({"first": shared, "second": torch.nn.Sequential(shared, torch.nn.ReLU())})
        block.register_module("none", None)
        model = torch.nn.ModuleList([block, shared, torch.nn.Sequential(block)])
        self.assertEqual(named_layers(model), list(model.named_modules()))

    def test_a_layer_has_what_was_set_of_it_be_that_a_layer_or_not(self) -> None:
        layer = torch.nn.Linear(2, 2)
        self.assertIsNone(member_of(layer, "quant_method"))
        for method in ("an object", torch.nn.ReLU()):
            layer = torch.nn.Linear(2, 2)
            layer.quant_method = method
            self.assertIs(member_of(layer, "quant_method"), method)


class Digests(unittest.TestCase):
    def test_models_that_hold_the_same_have_the_same_and_one_tensor_changes_only_its_own(self) -> None:
        one, other = (torch.nn.ModuleList([layer_with_everything()]) for _ in range(2))
        self.assertEqual(digests(one), digests(other))
        other[0].listed[0]["deep"][0][2] = 0
        before, after = digests(one), digests(other)
        self.assertEqual(
            [name for name in before if before[name] != after[name]],
            ["0:listed[0].deep[0] float32[4](1)"],
        )

    def test_they_are_those_of_the_bytes_in_memory_at_any_start(self) -> None:
        memory = torch.arange(64, dtype=torch.uint8)
        digester: Digester = TorchDigester(torch.device("cpu"))
        digester.add([memory[3:20].clone()])
        layer = Layer()
        layer.view = memory[3:20]
        self.assertEqual(list(digests(torch.nn.ModuleList([layer])).values()), [digester.words()])

    def test_tensors_that_change_between_updates_are_left_out_and_others_are_not(self) -> None:
        model = torch.nn.ModuleList([layer_with_everything()])
        whole = [Whole("", model)]

        def update() -> tuple[str, ...]:
            state = LiveState(whole, Walks({}))
            model[0].weight.data.add_(1)
            state.settle(Walks({}))
            return state.take().names

        everything = update()
        self.assertEqual(len(everything), 10)
        model[0].plain.add_(1)
        self.assertEqual(set(everything) - set(update()), {"0:plain float32[4](1)"})
        # Someone else has updated the engine: that other tensors have changed says nothing.
        model[0].weight.data.add_(1)
        model[0].scale.add_(1)
        self.assertEqual(len(update()), 9)
        # Nor does it after an update that did not ask.
        forget(whole, Walks({}))
        model[0].scale.add_(1)
        self.assertEqual(len(update()), 9)

    def test_a_tensor_whose_memory_is_gone_has_moved_and_one_whose_memory_is_held_has_not(self) -> None:
        layer = Layer("weight")
        layer.packed, layer.reference = tensor(1), tensor(2)
        layer.number = torch.tensor(1.0)
        model = torch.nn.ModuleList([layer])

        def moved(device: str = "cpu") -> list[str]:
            state = LiveState([Whole("", model)], Walks({}))
            state.settle(Walks({}))
            return state.moved(device)

        self.assertEqual(moved(), [])
        kept = layer.packed
        layer.packed, layer.number = tensor(1), torch.tensor(1.0)
        layer.reference = layer.weight.data
        self.assertEqual(moved(), ["0:packed", "0:reference"])
        self.assertEqual(moved("cuda"), [])
        # Graphs read what was there when they were captured, whatever an update has made since.
        layer.packed = tensor(3)
        layer.elsewhere = [kept]
        self.assertEqual(moved(), ["0:reference"])

    def test_a_tensor_that_has_moved_while_the_engine_served_is_not_taken_for_one_that_an_update_has_moved(
        self,
    ) -> None:
        layer = Layer("weight")
        layer.last_request, layer.packed = tensor(1), tensor(2)
        whole = [Whole("", torch.nn.ModuleList([layer]))]

        def update(*, moves: bool = False) -> list[str]:
            state = LiveState(whole, Walks({}))
            layer.weight.data.add_(1)
            if moves:
                layer.packed = tensor(3)
            state.settle(Walks({}))
            moved = state.moved("cpu")
            state.take()
            return moved

        self.assertEqual(update(), [])
        # Held, so that another cannot come to lie where it lay.
        kept = [layer.last_request, layer.packed]
        layer.last_request = tensor(4)
        self.assertEqual(update(), [])
        self.assertEqual(update(moves=True), ["0:packed"])
        self.assertEqual(update(), ["0:packed"])
        self.assertEqual(len(kept), 2)


class Refusals(unittest.TestCase):
    def setUp(self) -> None:
        fake_vllm.install()

    def test_experts_that_eplb_has_moved_are_refused_and_those_in_their_first_places_are_not(self) -> None:
        experts = Layer("weight")
        target = Target("target", Model(experts=experts), None)
        enabled = types.SimpleNamespace(parallel_config=types.SimpleNamespace(enable_eplb=True))
        disabled = types.SimpleNamespace(parallel_config=types.SimpleNamespace(enable_eplb=False))

        def place(places: list[list[int]], holder: Any) -> None:
            experts.eplb_state = experts.router = None
            state = types.SimpleNamespace(logical_to_physical_map=torch.tensor(places))
            setattr(
                experts, holder, state if holder == "eplb_state" else types.SimpleNamespace(eplb_state=state)
            )

        for holder in ("eplb_state", "router"):
            # Three experts, of which the first has a copy.
            place([[0, 3], [1, -1], [2, -1]], holder)
            refuse_moved_experts(target, enabled)
            place([[0, 3], [2, -1], [1, -1]], holder)
            refuse_moved_experts(target, disabled)
            with self.assertRaisesRegex(ModelNotReloadable, r"moved the experts of experts .*\(EPLB\)"):
                refuse_moved_experts(target, enabled)

    def test_senders_of_versions_one_apart_are_understood_and_no_others(self) -> None:
        for theirs in (PROTOCOL_VERSION - 1, PROTOCOL_VERSION, PROTOCOL_VERSION + 1):
            check_protocol(theirs)
        for theirs in (PROTOCOL_VERSION - 2, PROTOCOL_VERSION + 2):
            with self.assertRaisesRegex(
                ProtocolError, f"speaks version {theirs} of the worker link, this worker"
            ):
                check_protocol(theirs)



class Derived(unittest.TestCase):
    def test_what_a_layer_computes_anew_is_put_where_it_was_wherever_that_may_be_replaced(self) -> None:
        model = Model(layer=layer_with_everything())
        layer: Any = model.layer
        layer.listed.append(tensor(11))
        layer.kv_cache = tensor(12)
        before = (layer.plain, layer.listed[1], layer.scales.w1)
        derived = DerivedTensors(model, Walks({}))
        layer.plain, layer.listed[1], layer.scales.w1 = tensor(30), tensor(31), tensor(32)
        layer.kv_cache = cache = tensor(33)
        derived.put_back()
        after = (layer.plain, layer.listed[1], layer.scales.w1)
        self.assertEqual([int(one[0]) for one in after], [30, 31, 32])
        self.assertTrue(all(one is was for one, was in zip(after, before, strict=True)))
        self.assertIs(layer.kv_cache, cache)

    def test_what_objects_of_other_modules_keep_in_tensors_is_left_alone(self) -> None:
        # As vLLM's oneDNN handlers: what they free is where their tensor says.
        model = Model(layer=Layer("weight"))
        layer: Any = model.layer
        handler_class = type("CPUDNNGEMMHandler", (), {"__module__": "vllm._custom_ops"})
        layer.handler = old = handler_class()
        old.address = tensor(1)
        derived = DerivedTensors(model, Walks({}))
        layer.handler = new = handler_class()
        new.address = address = tensor(2)
        derived.put_back()
        self.assertEqual((int(old.address[0]), int(address[0])), (1, 2))
        self.assertIs(new.address, address)

    def test_what_has_another_form_stays_where_it_is(self) -> None:
        model = Model(layer=Layer("weight"))
        layer: Any = model.layer
        layer.plain = tensor(1)
        derived = DerivedTensors(model, Walks({}))
        layer.plain = wider = torch.full((8,), 2.0)
        derived.put_back()
        self.assertIs(layer.plain, wider)


if __name__ == "__main__":
    unittest.main()
