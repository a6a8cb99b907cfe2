"""Updates of models as vLLM has them, in one process, with the vLLM of fake_vllm.py: `python vllm_update_cases.py`."""

from __future__ import annotations

import re
import sys
import types
import unittest
import unittest.mock
from collections.abc import Iterable
from typing import Any

import fake_vllm
import torch
from fake_rank import FakeRank
from fake_vllm import INFO, Attention, Head, Layer, Model
from torch.multiprocessing.reductions import StorageWeakRef
from weightcast import vllm_plugin
from weightcast.errors import EngineAsleep, LoadFailed, ModelNotReloadable, ParametersMissing, WeightcastError
from weightcast.messages import Open
from weightcast.vllm_derived import renew_combined_gates
from weightcast.vllm_reloadable import Target
from weightcast.vllm_drafts import draft_apart, refusal_of_draft, targets_of
from weightcast.vllm_update import ModelUpdate, install_weights, uuid_of_device
from weightcast.worker import VllmWorkerExtension

CPU = torch.device("cpu")
CONFIG = types.SimpleNamespace(quantization=None, dtype=torch.float32, hf_text_config=types.SimpleNamespace())


def model_of_two() -> Model:
    first = Layer("a", "b")
    return Model(first=first, attention=Attention(first), second=Layer("a", "b"))


def new_weights(value: float, *names: str) -> tuple[torch.Tensor, list[tuple[str, torch.Tensor]]]:
    """A link buffer, and tensors that are views of it."""
    buffer = torch.full((len(names), 4), value)
    return buffer, [(name, buffer[row]) for row, name in enumerate(names)]


def update_of(*targets: Target, vllm_config: Any = None) -> ModelUpdate:
    return ModelUpdate(targets, vllm_config, CPU)


def opening(*, installed: bool = False, accept_unproven: bool = False, exchanges: int = 1) -> Open:
    """The rank's first request."""
    return Open(2, "GPU-0", 1, "a@b", b"", 0, False, installed, accept_unproven, exchanges)


def all_new(value: float, *, layers: tuple[str, ...] = ("first", "second")) -> dict[str, list[float]]:
    return {f"{layer}.{name}": [value] * 4 for layer in layers for name in "ab"}


class Updates(unittest.TestCase):
    def setUp(self) -> None:
        fake_vllm.install()
        self.model = model_of_two()
        self.target = Target("target", self.model, CONFIG)

    def load(self, update: ModelUpdate, value: float, *names: str) -> None:
        """One bucket; the link buffer is overwritten as soon as it is answered."""
        buffer, weights = new_weights(value, *names)
        update.load(weights)
        buffer.fill_(torch.nan)

    def load_all(self, value: float) -> dict[str, Any]:
        with update_of(self.target) as update:
            self.load(update, value, "first.a", "second.a")
            self.load(update, value, "first.b", "second.b")
            update.finish()
        return update.report()

    def assert_whole(self) -> None:
        for layer in self.model.modules():
            self.assertIsNone(INFO[layer].load_numel_total)
            self.assertFalse(any(parameter.is_meta for parameter in layer._parameters.values()))

    def test_layers_that_end_in_another_bucket_are_right(self) -> None:
        before = {name: parameter.data_ptr() for name, parameter in self.model.named_parameters()}
        for value in (1.0, 2.0):
            report = self.load_all(value)
            self.assertEqual(report, {"models": ["target"], "reload": "layerwise", "coverage": "complete"})
            self.assertEqual(self.model.held(), all_new(value))
        self.assertEqual(
            before, {name: parameter.data_ptr() for name, parameter in self.model.named_parameters()}
        )
        self.assertEqual(self.model.attention.sum, -16.0)

    def test_layers_are_processed_on_the_device_of_the_engine_and_loaded_without_a_default(self) -> None:
        device = torch.device("cpu", 0)
        loaded_on = []
        load_weights = self.model.load_weights

        def load(weights: Any) -> Any:
            loaded_on.append(torch.get_default_device())
            return load_weights(weights)

        self.model.load_weights = load
        with ModelUpdate([self.target], None, device) as update:
            self.load(update, 1.0, "first.a", "first.b")
            self.load(update, 1.0, "second.a", "second.b")
            update.finish()
        self.assertEqual(self.model.held(), all_new(1.0))
        self.assertEqual(loaded_on, [torch.device("cpu")] * 2)
        self.assertEqual([self.model.first.processed_on, self.model.second.processed_on], [device] * 2)

    def test_only_what_waits_for_its_layer_is_cloned(self) -> None:
        buffer, weights = new_weights(1.0, "first.a", "first.b", "second.a")
        with update_of(self.target) as update:
            update.load(weights)
            held = [arguments.arguments["weight"] for _, arguments in INFO[self.model.second].loaded_weights]
            self.assertEqual([tensor.tolist() for tensor in held], [[1.0] * 4])
            self.assertNotEqual(held[0].untyped_storage().data_ptr(), buffer.untyped_storage().data_ptr())

    def test_experts_of_other_workers_are_not_held(self) -> None:
        class Experts(Layer):
            """Of which this worker has the first."""

            def load(self, param: torch.Tensor, loaded_weight: torch.Tensor, expert_id: int) -> None:
                if expert_id == 0:
                    param.data.copy_(loaded_weight)

        model = Model(experts=Experts("a", "b"))
        self.target = Target("target", model, CONFIG)
        info = INFO[model.experts]
        for value in (1.0, 2.0):
            with update_of(self.target) as update:
                self.load(update, 9.0, "experts.a:1", "experts.b:1")
                self.assertEqual(info.loaded_weights, [])
                self.load(update, value, "experts.a:2", "experts.a:0")
                held = [arguments.arguments["loaded_weight"].tolist() for _, arguments in info.loaded_weights]
                self.assertEqual(held, [[value] * 4])
                self.load(update, value, "experts.b:0")
                update.finish()
            self.assertEqual(model.held(), {"experts.a": [value] * 4, "experts.b": [value] * 4})

    def test_a_layer_may_wait_through_buckets_that_have_nothing_for_it(self) -> None:
        with update_of(self.target) as update:
            for name in ("first.a", "second.a", "second.b", "first.b"):
                self.load(update, 1.0, name)
            update.finish()
        self.assertEqual(self.model.held(), all_new(1.0))

    def test_the_link_buffer_is_free_when_the_last_bucket_is_answered(self) -> None:
        with update_of(self.target) as update:
            self.load(update, 1.0, "first.a", "second.a")
            buffer, weights = new_weights(1.0, "first.b", "second.b")
            update.load(weights)
            memory = StorageWeakRef(buffer.untyped_storage())
            del buffer, weights
            self.assertTrue(memory.expired())
            update.finish()

    def test_an_update_that_ends_between_buckets_leaves_whole_layers(self) -> None:
        self.load_all(1.0)
        with self.assertRaises(KeyboardInterrupt), update_of(self.target) as update:
            self.load(update, 2.0, "first.a", "first.b", "second.a")
            raise KeyboardInterrupt
        self.assertEqual(
            self.model.held(), all_new(2.0, layers=("first",)) | all_new(1.0, layers=("second",))
        )
        # What attention computed goes with the layer that is new.
        self.assertEqual(self.model.attention.sum, -16.0)
        self.assert_whole()
        self.load_all(3.0)
        self.assertEqual(self.model.held(), all_new(3.0))

    def test_a_bias_that_was_written_before_its_layer_was_whole_is_put_back(self) -> None:
        """vLLM has no record of biases, and leaves them where they are."""
        self.load_all(1.0)
        bias = torch.nn.Parameter(torch.full((4,), 7.0), requires_grad=False)
        self.model.second.register_parameter("bias", bias)
        with self.assertRaises(KeyError), update_of(self.target) as update:
            self.load(update, 2.0, "first.a", "second.bias")
            raise KeyError
        self.assertEqual(bias.tolist(), [7.0] * 4)
        self.assertIs(self.model.second.bias, bias)
        # Also where another layer is new, and so is what attention computes of it.
        with self.assertRaises(KeyError), update_of(self.target) as update:
            self.load(update, 2.0, "first.a", "first.b", "second.bias")
            raise KeyError
        self.assertEqual(self.model.attention.sum, -16.0)
        self.assertEqual(bias.tolist(), [7.0] * 4)

    def head_of(self, **layers: Any) -> Head:
        self.model = Model(embedding=Layer("weight"), lm_head=Head(), **layers)
        self.target = Target("target", self.model, CONFIG)
        return self.model.lm_head

    def test_a_bias_that_the_files_turn_out_to_have_is_loaded_whatever_the_order_and_kept(self) -> None:
        for names in (("lm_head.bias", "lm_head.weight"), ("lm_head.weight", "lm_head.bias")):
            with self.subTest(first=names[0]):
                head = self.head_of()
                biases = []
                for value in (1.0, 2.0, 3.0):
                    head.processed = 0
                    with update_of(self.target) as update:
                        self.load(update, value, "embedding.weight", names[0])
                        self.load(update, value, names[1])
                        update.finish()
                    self.assertEqual(update.report()["coverage"], "complete")
                    self.assertEqual([head.weight.tolist(), head.bias.tolist()], [[value] * 4] * 2)
                    self.assertGreaterEqual(head.processed, 1)
                    biases.append(head.bias)
                self.assertTrue(all(bias is biases[0] for bias in biases))
                self.assertNotIn("_register_bias", vars(head))

    def test_a_bias_that_is_missing_after_it_was_loaded_once_is_named(self) -> None:
        head = self.head_of()
        for names in (("lm_head.bias", "lm_head.weight"), ("lm_head.weight",)):
            with update_of(self.target) as update:
                self.load(update, 1.0, "embedding.weight", *names)
                if len(names) == 1:
                    with self.assertRaisesRegex(ParametersMissing, r"lm_head\.bias"):
                        update.finish()
                else:
                    update.finish()
        self.assertEqual(head.bias.tolist(), [1.0] * 4)

    def test_a_head_has_no_bias_again_where_the_update_that_brought_one_fails(self) -> None:
        head = self.head_of()
        with self.assertRaises(KeyError), update_of(self.target) as update:
            self.load(update, 1.0, "lm_head.bias")
            raise KeyError
        self.assertIsNone(head.bias)
        self.assertEqual(head.weight.tolist(), [0.0] * 4)

    def test_a_parameter_that_a_model_gives_its_layer_past_the_reload_is_missed(self) -> None:
        load_weights = self.model.load_weights

        def load(weights: Any) -> Any:
            self.model.second.bias = torch.nn.Parameter(torch.ones(4), requires_grad=False)
            return load_weights(weights)

        self.model.load_weights = load
        with update_of(self.target) as update:
            self.load(update, 1.0, "first.a", "first.b", "second.a", "second.b")
            with self.assertRaisesRegex(ParametersMissing, r"second\.bias"):
                update.finish()

    def test_a_bias_of_a_packed_head_that_comes_last_is_refused(self) -> None:
        head = self.head_of()
        head.quant_method = type("Packed", (), {"process_weights_after_loading": lambda self, layer: None})()
        with self.assertRaisesRegex(ModelNotReloadable, "bias of the head"), update_of(self.target) as update:
            self.load(update, 1.0, "lm_head.weight")
            self.load(update, 1.0, "lm_head.bias")

    def test_a_bias_of_a_tied_head_is_refused_before_it_spoils_the_embedding(self) -> None:
        embedding = Layer("weight")
        head = Head(embedding.weight)
        target = self.tied(head, embedding)
        with self.assertRaisesRegex(ModelNotReloadable, "tied to the embedding"), update_of(target) as update:
            self.model = target.model
            self.load(update, 1.0, "embedding.weight")
            self.load(update, 1.0, "lm_head.bias")
        self.assertEqual(embedding.weight.tolist(), [-1.0] * 4)
        head._register_bias()
        with self.assertRaisesRegex(ModelNotReloadable, "tied to the embedding"):
            update_of(target)

    def test_a_load_that_fails_holds_on_to_nothing(self) -> None:
        self.load_all(1.0)
        buffer, weights = new_weights(2.0, "first.a", "second.a")
        with self.assertRaises(AssertionError), update_of(self.target) as update:
            try:
                update.load([*weights, ("second.b", torch.zeros(5))])
            finally:
                # When it has raised, before the rank is told: the link buffer goes next.
                held = [tensor for info in INFO.values() for tensor in info.loaded_weights]
        self.assertEqual(held, [])
        self.assertEqual(self.model.held(), all_new(1.0))
        self.assert_whole()
        self.load_all(3.0)
        self.assertEqual(self.model.held(), all_new(3.0))

    def test_the_link_buffer_is_free_after_an_error_that_came_of_another(self) -> None:
        def read(tensor: torch.Tensor) -> None:
            part = tensor[:2]
            raise KeyError(part.shape)

        def load(weights: Iterable[tuple[str, torch.Tensor]]) -> None:
            try:
                read(next(iter(weights))[1])
            except KeyError:
                raise ValueError("there is no such parameter") from None

        self.model.load_weights = load
        rank = FakeRank()
        self.addCleanup(rank.close)
        options = {"vllm_config": None, "device": CPU, "silence_seconds": 60}
        with self.assertNoLogs("weightcast.receive", "WARNING"), self.assertRaises(ValueError):
            rank.send([{"first.a": torch.zeros(4)}], lambda links: install_weights(links, [self.target], **options))

    def test_an_error_of_a_loader_names_the_tensor_and_holds_on_to_nothing(self) -> None:
        def fit(parameter: torch.Tensor, loaded_weight: torch.Tensor) -> None:
            half = loaded_weight[loaded_weight.shape[0] // 2 :]
            assert parameter.shape == half.shape, f"{parameter.shape}\nand {half.shape}"

        def load(weights: list[tuple[str, torch.Tensor]]) -> None:
            for _, weight in weights:
                fit(self.model.first.a, weight)

        self.model.load_weights = load
        rank = FakeRank()
        self.addCleanup(rank.close)
        options = {"vllm_config": None, "device": CPU, "silence_seconds": 60}
        named = r"^tensor 'b', float32 \[6\]: AssertionError: torch.Size\(\[4\]\) and torch.Size\(\[3\]\)$"
        with self.assertNoLogs("weightcast.receive", "WARNING"), self.assertRaisesRegex(LoadFailed, named):
            tensors = {"a": torch.zeros(8), "b": torch.zeros(6), "c": torch.zeros(2)}
            rank.send([tensors], lambda links: install_weights(links, [self.target], **options))

    def test_a_layer_that_cannot_be_processed_gets_its_tensors_back(self) -> None:
        self.load_all(1.0)
        self.model.second.fails = True
        with self.assertRaises(ValueError), update_of(self.target) as update:
            self.load(update, 2.0, "first.a", "first.b", "second.a", "second.b")
        self.model.second.fails = False
        self.assertEqual(
            self.model.held(), all_new(2.0, layers=("first",)) | all_new(1.0, layers=("second",))
        )
        self.assert_whole()

    def test_a_model_that_cannot_be_put_back_keeps_no_other_from_it(self) -> None:
        layerwise = sys.modules[fake_vllm.LAYERWISE]
        place = layerwise._place_kernel_tensors
        for fails in (0, 1):
            models = [model_of_two(), model_of_two()]
            which = zip(("target", "draft"), models, strict=True)

            def fail(layer: Any, info: Any, broken: Any = models[fails].first) -> None:
                if layer is broken:
                    raise RuntimeError("it cannot be put back")
                place(layer, info)

            with self.assertRaises(RuntimeError), update_of(*(Target(name, one, CONFIG) for name, one in which)) as update:
                self.load(update, 1.0, "first.a")
                patch = unittest.mock.patch.object(layerwise, "_place_kernel_tensors", fail)
                patch.start()
                self.addCleanup(patch.stop)
            self.model = models[1 - fails]
            self.assert_whole()

    def test_nothing_is_touched_before_the_first_bucket(self) -> None:
        with update_of(self.target):
            self.assert_whole()
        self.assertEqual([layer.processed for layer in (self.model.first, self.model.attention)], [0, 0])

    def test_an_update_without_tensors_installs_nothing_and_says_so(self) -> None:
        with self.assertRaisesRegex(WeightcastError, "no tensor came for the target model"), update_of(self.target) as update:
            update.finish()
        self.assert_whole()

    def test_what_another_update_left_is_not_taken_for_a_part_of_this_one(self) -> None:
        self.load_all(1.0)
        fake_vllm.initialize_layerwise_reload(self.model)
        with fake_vllm.set_current_vllm_config(None):
            self.model.load_weights(new_weights(9.0, "first.a", "first.b", "second.b")[1])
        with self.assertLogs("vllm.weightcast", "WARNING") as logs:
            self.load_all(2.0)
        # Nothing went wrong with that either.
        self.assertEqual(
            [record.getMessage() for record in logs.records],
            ["an earlier update left layers of the target model half-way"],
        )
        self.assertEqual(self.model.held(), all_new(2.0))

    def test_missing_parameters_are_named(self) -> None:
        with self.assertRaisesRegex(ParametersMissing, r"target model: second\.a, second\.b$"):
            with update_of(self.target) as update:
                self.load(update, 2.0, "first.a", "first.b", "no.such.thing")
                update.finish()
        self.assert_whole()
        with self.assertRaisesRegex(WeightcastError, "took none of the tensors"):
            with update_of(self.target) as update:
                self.load(update, 2.0, "no.such.thing")
                update.finish()

    def test_a_part_of_a_fused_parameter_is_missed(self) -> None:
        self.model.first.quant_method = type("UnquantizedLinearMethod", (), {})()
        for layer in ("first", "second"):
            half = [(f"{layer}.b:0", torch.zeros(2))]
            rest = [name for name in all_new(2.0) if name != f"{layer}.b"]
            with update_of(self.target) as update:
                update.load(new_weights(2.0, *rest)[1] + half)
                if layer == "second":
                    # What is larger than the files have it may be padded.
                    update.finish()
                    continue
                with self.assertRaisesRegex(ParametersMissing, r"target model: first\.a, first\.b$"):
                    update.finish()
            self.assert_whole()

    def test_what_a_model_passes_over_is_missed_whatever_it_says(self) -> None:
        load_weights = self.model.load_weights

        def says_all(weights: list[tuple[str, torch.Tensor]]) -> set[str]:
            load_weights([pair for pair in weights if pair[0] != "second.a"])
            return set(all_new(2.0))

        self.model.load_weights = says_all
        with (
            self.assertRaisesRegex(ParametersMissing, r"target model: second\.a$"),
            update_of(self.target) as update,
        ):
            self.load(update, 2.0, *all_new(2.0))
            update.finish()

    def test_of_a_quantised_model_nobody_knows(self) -> None:
        quantised = types.SimpleNamespace(**{**vars(CONFIG), "quantization": "fp8"})
        with update_of(Target("target", self.model, quantised)) as update:
            self.load(update, 2.0, "first.a", "first.b")
            update.finish()
        self.assertEqual(update.report()["coverage"], "unknown")

    def test_scales_that_the_files_lack_are_missed_of_a_quantised_layer_that_they_have(self) -> None:
        model = Model(
            first=Layer("weight", "weight_scale"), second=Layer("weight", "weight_scale"), third=Layer("weight", "order")
        )
        quantised = types.SimpleNamespace(**{**vars(CONFIG), "quantization": "fp8"})
        with (
            self.assertRaisesRegex(ParametersMissing, r"target model: second\.weight_scale$"),
            update_of(Target("target", model, quantised)) as update,
        ):
            self.load(update, 2.0, "first.weight", "first.weight_scale", "second.weight", "third.weight")
            update.finish()

    def test_a_tensor_with_two_names_is_missed_once(self) -> None:
        head = Layer("a")
        embedding = Layer("a")
        head.a = embedding.a
        model = Model(embedding=embedding, head=head)
        with update_of(Target("target", model, CONFIG)) as update:
            self.load(update, 2.0, "embedding.a")
            update.finish()
        self.assertEqual(update.report()["coverage"], "complete")

    def test_models_that_cannot_be_reloaded_are_refused_untouched(self) -> None:
        for layer in self.model.modules():
            INFO[layer].restore_metadata = ({}, {})
        with self.assertRaisesRegex(ModelNotReloadable, "no record of how the target model was created"):
            update_of(self.target)
        fake_vllm.install()
        experts = Layer("a")
        experts.quant_method = types.SimpleNamespace(moe_kernel=object())
        with self.assertRaisesRegex(ModelNotReloadable, "experts for the CPU"):
            update_of(Target("target", Model(experts=experts), CONFIG))

    def test_experts_that_are_not_known_to_be_right_are_refused_unless_they_are_accepted(self) -> None:
        base = type("FusedMoEMethodBase", (), {})

        def reload(kind: str, accept_unproven: bool = False, **members: object) -> None:
            experts = Layer("a")
            experts.quant_method = type(kind, (base,), members)()
            update = update_of(Target("target", Model(experts=experts), CONFIG))
            update.begin(opening(accept_unproven=accept_unproven))

        triton, cutlass = (types.SimpleNamespace(name=name) for name in ("TRITON", "FLASHINFER_CUTLASS"))
        reload("UnquantizedFusedMoEMethod", unquantized_backend=triton)
        for kind, members, why in (
            ("UnquantizedFusedMoEMethod", {"unquantized_backend": cutlass}, "FLASHINFER_CUTLASS.*--moe-backend triton"),
            ("Fp8MoEMethod", {"fp8_backend": triton}, "quantised experts \\(Fp8MoEMethod, kernels TRITON\\)"),
            ("GPTQMarlinMoEMethod", {}, "quantised experts \\(GPTQMarlinMoEMethod"),
        ):
            with self.assertRaisesRegex(ModelNotReloadable, why):
                reload(kind, **members)
            reload(kind, accept_unproven=True, **members)

    def test_what_is_computed_of_weights_stays_where_graphs_read_it(self) -> None:
        class Kernel:
            __module__ = "vllm.model_executor.layers.fused_moe"

            def __init__(self, scale: torch.Tensor) -> None:
                self.scales = [scale]

        class Computing(Attention):
            def process_weights_after_loading(self, dtype: torch.dtype) -> None:
                super().process_weights_after_loading(dtype)
                self.half = torch.full((2,), self.sum)
                self.quant_method = Kernel(torch.full((1,), self.sum))

        first = Layer("a", "b")
        model = Model(first=first, attention=Computing(first), second=Layer("a", "b"))
        self.target = Target("target", model, CONFIG)
        self.load_all(1.0)
        attention = model.attention
        read = (attention.half, attention.quant_method.scales[0])
        places = [tensor.data_ptr() for tensor in read]
        self.load_all(2.0)
        self.assertEqual([tensor.tolist() for tensor in read], [[-16.0] * 2, [-16.0]])
        held = (attention.half, attention.quant_method.scales[0])
        self.assertEqual([tensor.data_ptr() for tensor in held], places)
        # A layer that computes another form has to have it where it is.
        attention.half = torch.zeros(3)
        self.load_all(3.0)
        self.assertEqual(attention.half.tolist(), [-24.0] * 2)

    def test_gates_that_were_joined_at_the_first_forward_pass_are_joined_again(self) -> None:
        class Runner(Layer):
            def __init__(self) -> None:
                super().__init__("own")
                self.gate = torch.nn.Linear(4, 2, bias=False)
                self.shared_expert_gate = torch.nn.Linear(4, 1, bias=False)
                self._combined_gate_weight = torch.zeros(3, 4)

        runner = Runner()
        place = runner._combined_gate_weight.data_ptr()
        renew_combined_gates(torch.nn.ModuleList([runner]))
        joined = torch.cat([runner.gate.weight, runner.shared_expert_gate.weight])
        self.assertTrue(torch.equal(runner._combined_gate_weight, joined))
        self.assertEqual(runner._combined_gate_weight.data_ptr(), place)

    def tied(self, head: Layer, embedding: Layer, **others: Layer) -> Target:
        config = {**vars(CONFIG), "hf_text_config": types.SimpleNamespace(tie_word_embeddings=True)}
        return Target("target", Model(embedding=embedding, lm_head=head, **others), types.SimpleNamespace(**config))

    def test_a_tied_head_packs_the_new_weight(self) -> None:
        class UnquantizedEmbeddingMethod:
            def process_weights_after_loading(self, layer: Layer) -> None:
                packed.append(layer.weight.tolist())

        packed: list[list[float]] = []
        head, embedding = Layer("weight"), Layer("weight")
        head.quant_method = UnquantizedEmbeddingMethod()
        head.weight = embedding.weight
        target = self.tied(head, embedding)
        packed.clear()
        with update_of(target) as update:
            self.load(update, 2.0, "embedding.weight")
            update.finish()
        self.assertEqual(packed, [[-2.0] * 4])
        with self.assertRaises(KeyError), update_of(target) as update:
            self.load(update, 3.0, "embedding.weight")
            raise KeyError
        self.assertEqual(packed, [[-2.0] * 4, [-3.0] * 4])

    def test_a_head_in_the_files_of_a_tied_model_is_passed_over_as_at_the_start(self) -> None:
        class UnquantizedEmbeddingMethod:
            def process_weights_after_loading(self, layer: Layer) -> None:
                layer.process()

        head, embedding = Layer("weight"), Layer("weight")
        embedding.quant_method = UnquantizedEmbeddingMethod()
        head.quant_method = type("UnquantizedEmbeddingMethod", (), {"process_weights_after_loading": lambda *_: None})()
        head.weight = embedding.weight
        target = self.tied(head, embedding)
        for first, second in (("embedding", "lm_head"), ("lm_head", "embedding")):
            with update_of(target) as update:
                for name in (first, second):
                    self.load(update, 2.0 if name == "embedding" else 9.0, f"{name}.weight")
                update.finish()
            self.assertEqual(target.model.held()["embedding.weight"], [2.0] * 4)
            self.assertIs(head.weight, embedding.weight)

    def test_a_second_name_of_a_tied_weight_may_come_in_a_call_of_its_own(self) -> None:
        class AutoWeightsLoader:
            """Of vllm/model_executor/models/utils.py."""

            def __init__(self, module: Model) -> None:
                self.module = module
                self._loaded_params_are_complete = True
                self._skipped_aliases: dict[str, str] = {}

            def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
                known = [one for one in weights if one[0] != "lm_head.weight"]
                loaded = self.module.load_known(known)
                names = {name for name, _ in known}
                self._loaded_params_are_complete = names.isdisjoint(untold)
                self._skipped_aliases = {"lm_head.weight": "embedding.weight"}
                self._check_skipped_aliases(names - untold)
                return loaded

            def _check_skipped_aliases(self, loaded: set[str]) -> None:
                if "embedding.weight" not in loaded:
                    raise ValueError("'lm_head.weight' was skipped because it is tied to 'embedding.weight'")

        fake_vllm.put_module("vllm.model_executor.models")
        fake_vllm.put_module("vllm.model_executor.models.utils", AutoWeightsLoader=AutoWeightsLoader)
        check = AutoWeightsLoader._check_skipped_aliases
        # Of layers whose own loaders return no names.
        untold: set[str] = set()
        embedding = Layer("weight")
        target = self.tied(embedding, embedding, norm=Layer("a"))
        model = target.model
        model.load_known = model.load_weights
        model.load_weights = lambda weights: AutoWeightsLoader(model).load_weights(weights)
        for untold in (set(), {"embedding.weight"}):
            with update_of(target) as update:
                self.load(update, 2.0, "embedding.weight")
                self.load(update, 9.0, "lm_head.weight", "norm.a")
                update.finish()
            self.assertEqual(model.held()["embedding.weight"], [2.0] * 4)
        untold = set()
        for quantization in (None, "of which nobody knows all names"):
            target.model_config.quantization = quantization
            with self.assertRaisesRegex(ParametersMissing, "model: embedding.weight$"), update_of(target) as update:
                self.load(update, 9.0, "lm_head.weight", "norm.a")
                update.finish()
        self.assertIs(AutoWeightsLoader._check_skipped_aliases, check)

    def test_a_tied_head_with_a_weight_of_its_own_is_refused(self) -> None:
        with self.assertRaisesRegex(ModelNotReloadable, "its lm_head holds a copy"):
            update_of(self.tied(Layer("weight"), Layer("weight")))
        # The embedding itself, under a second name.
        embedding = Layer("weight")
        update_of(self.tied(embedding, embedding))

    def test_weights_that_are_asleep_are_refused(self) -> None:
        def allocation(tag: str, **state: object) -> types.SimpleNamespace:
            return types.SimpleNamespace(tag=tag, **state)

        for data, asleep in (
            (allocation("kv_cache", is_asleep=True, cpu_backup_tensor=None), False),
            (allocation("weights", is_asleep=False, cpu_backup_tensor=None), False),
            (allocation("weights", is_asleep=True, cpu_backup_tensor=None), True),
            (allocation("weights", cpu_backup_tensor=torch.zeros(1)), True),
        ):
            allocator = types.SimpleNamespace(instance=types.SimpleNamespace(pointer_to_data={7: data}))
            fake_vllm.put_module("vllm.device_allocator.cumem", CuMemAllocator=allocator)
            if asleep:
                with self.assertRaisesRegex(EngineAsleep, "wake them first"):
                    update_of(self.target)
            else:
                update_of(self.target)

    def test_workers_on_no_gpu_take_the_links_in_the_order_of_their_ranks(self) -> None:
        links = {"HOST-b-1": "x", "HOST-b-0": "y"}
        with self.assertRaisesRegex(WeightcastError, "set WEIGHTCAST_DEVICE_UUID"):
            uuid_of_device(CPU, links)
        self.assertEqual(uuid_of_device(CPU, {"HOST-b-1": "x"}), "HOST-b-1")
        with unittest.mock.patch.multiple(
            torch.distributed, is_initialized=lambda: True, get_world_size=lambda: 2, get_rank=lambda: 1
        ):
            self.assertEqual(uuid_of_device(CPU, links), "HOST-b-0")

    def test_an_older_vllm_loads_as_the_files_are(self) -> None:
        fake_vllm.install(layerwise=False)
        with self.assertLogs("vllm.weightcast", "WARNING"):
            report = self.load_all(2.0)
        self.assertEqual(report, {"models": ["target"], "reload": "raw", "coverage": "unknown"})
        self.assertEqual(self.model.held(), all_new(2.0))


class Drafts(unittest.TestCase):
    def setUp(self) -> None:
        fake_vllm.install()
        self.model = model_of_two()
        self.draft = Model(refuses_foreign=False, shared=self.model.first, head=Layer("a"))

    def config(self, method: str, draft_model_config: Any = CONFIG, **members: Any) -> Any:
        speculation = types.SimpleNamespace(method=method, draft_model_config=draft_model_config, **members)
        return types.SimpleNamespace(speculative_config=speculation, model_config=CONFIG)

    def worker(self, method: str, **members: Any) -> Any:
        return types.SimpleNamespace(
            get_model=lambda: self.model, model_config=CONFIG, vllm_config=self.config(method), **members
        )

    def update(self, worker: Any, *names: str) -> list[str]:
        with update_of(*targets_of(worker)) as update:
            update.load(new_weights(2.0, *names)[1])
            update.finish()
        return update.report()["models"]

    def test_a_draft_of_the_same_checkpoint_takes_what_it_has(self) -> None:
        worker = self.worker("deepseek_mtp", get_draft_model=lambda: self.draft)
        self.assertEqual(self.update(worker, *all_new(2.0), "head.a"), ["target", "draft"])
        self.assertEqual(self.draft.held()["head.a"], [2.0] * 4)
        # Once: a shared layer is the target's.
        self.assertEqual([self.draft.head.processed, self.model.first.processed], [1, 1])

    def test_a_draft_without_tensors_is_as_it_was(self) -> None:
        worker = self.worker("mtp", get_draft_model=lambda: self.draft)
        self.draft.attention = Attention(self.draft.head)
        INFO[self.draft.attention] = fake_vllm.Info(({}, {}))
        self.assertEqual(self.update(worker, *all_new(2.0)), ["target"])
        self.assertEqual([self.draft.head.processed, self.draft.attention.processed], [0, 0])
        self.assertIsNone(INFO[self.draft.head].load_numel_total)
        self.assertFalse(self.draft.head.a.is_meta)

    def test_a_draft_with_a_checkpoint_of_its_own_is_not_asked(self) -> None:
        self.draft.refuses_foreign = True
        worker = self.worker("eagle3", get_draft_model=lambda: self.draft)
        self.assertEqual(self.update(worker, *all_new(2.0)), ["target"])

    def extension(self, method: str) -> Any:
        """A worker with our extension, and what each exchange of an update got of models."""
        took: list[tuple[list[str], list[str]]] = []

        def install(_links: Any, targets: Any, *, next_targets: Any = (), **_options: Any) -> Any:
            took.append(([one.which for one in targets], [one.which for one in next_targets]))
            received = types.SimpleNamespace(epoch=1, version="a@b", tensors=2)
            return received, {"models": [one.which for one in targets]}

        worker = VllmWorkerExtension()
        vars(worker).update(vars(self.worker(method, get_draft_model=lambda: self.draft, device=CPU)))
        return worker, took, install

    def assert_draft(self, worker: Any, takes: str, why: str) -> None:
        draft = worker.weightcast_protocol()["draft"]
        self.assertEqual(draft["takes"], takes)
        self.assertRegex(str(draft["why"]), why)

    def test_a_draft_apart_takes_the_weights_after_the_target(self) -> None:
        worker, took, install = self.extension("draft_model")
        self.assert_draft(worker, "apart", "it takes the weights if .* hasDraftModel")
        with unittest.mock.patch("weightcast.worker.install_weights", install):
            report = worker.update_weights_from_weightcast({}, 600, True)
            self.assertEqual(report["models"], ["target", "draft"])
            self.assertEqual(took, [(["target"], ["draft"]), (["draft"], [])])
            worker.update_weights_from_weightcast({})
        self.assertEqual(took[2:], [(["target"], [])])

    def test_a_draft_out_of_the_target_takes_no_weights_apart(self) -> None:
        worker, _, _ = self.extension("deepseek_mtp")
        why = "this engine has no draft model that takes the weights apart from its target"
        self.assert_draft(worker, "along", "^None$")
        with self.assertLogs("vllm.weightcast", "ERROR"):
            answer = worker.update_weights_from_weightcast({}, 600, True)
        self.assertEqual(answer["error"].splitlines()[-1], f"weightcast.errors.WeightcastError: {why}")

    def test_a_draft_of_other_tensors_keeps_them_and_is_refused_where_it_is_sent_the_targets(self) -> None:
        for method in ("eagle", "eagle3", "dflash", "dspark", "medusa", "mlp_speculator", "custom_class"):
            worker, took, install = self.extension(method)
            refusal = f"the draft model of this engine ({method}) has tensors of its own, which are not the target's, and keeps them"
            self.assert_draft(worker, "nothing", re.escape(refusal))
            with (
                unittest.mock.patch("weightcast.worker.install_weights", install),
                self.assertLogs("vllm.weightcast", "ERROR"),
            ):
                worker.update_weights_from_weightcast({})
                answer = worker.update_weights_from_weightcast({}, 600, True)
            self.assertRegex(answer["error"], "ModelNotReloadable: .*tensors of its own.*: leave hasDraftModel")
            self.assertEqual(took, [(["target"], [])])
            # As a weight-transfer engine is asked, which sees the target alone.
            with self.assertRaisesRegex(ModelNotReloadable, "leave hasDraftModel"):
                update_of(Target("target", self.model, CONFIG), vllm_config=worker.vllm_config).begin(opening(exchanges=2))

    def test_a_draft_of_another_form_than_its_target_is_refused(self) -> None:
        small = types.SimpleNamespace(hf_text_config=types.SimpleNamespace(hidden_size=1_024))
        refusal = "the draft model of this engine has another hidden_size than its target: 1024, not None"
        self.assertEqual(refusal_of_draft(self.config("draft_model", small)), refusal)
        files = types.SimpleNamespace(quantization_config={"quant_method": "fp8"})
        quantised = types.SimpleNamespace(**{**vars(CONFIG), "hf_config": files})
        refusal = "the files of this engine's draft model have another quantisation than its target's: fp8, not None"
        self.assertEqual(refusal_of_draft(self.config("draft_model", quantised)), refusal)
        self.assertIsNone(refusal_of_draft(self.config("draft_model")))

    def test_what_drafts_without_weights_takes_none(self) -> None:
        for method in ("ngram", "ngram_gpu", "suffix", "extract_hidden_states"):
            self.assertRegex(refusal_of_draft(self.config(method)) or "", "no draft model that takes weights")
        for model in (None, torch.nn.Identity()):
            worker = self.worker("extract_hidden_states", get_draft_model=lambda model=model: model)
            self.assertEqual(([one.which for one in targets_of(worker)], draft_apart(worker)), (["target"], None))

    def test_gemmas_assistant_is_no_part_of_the_target(self) -> None:
        worker = self.worker("mtp", get_draft_model=lambda: self.draft)
        worker.vllm_config = self.config("mtp", use_gemma4_mtp=lambda: True)
        self.assertEqual(self.update(worker, *all_new(2.0), "head.a"), ["target"])
        self.assertRegex(refusal_of_draft(worker.vllm_config) or "", "tensors of its own")
        worker.vllm_config = self.config("mtp", use_gemma4_mtp=lambda: False)
        self.assertEqual(len(targets_of(worker)), 2)

    def test_a_draft_that_would_be_refused_keeps_the_target_from_being_touched(self) -> None:
        draft = Model(head=Layer("a"))
        INFO[draft.head] = fake_vllm.Info(({}, {}))
        targets = [Target("target", self.model, CONFIG)]
        with self.assertRaisesRegex(ModelNotReloadable, "no record of how the draft model was created"):
            ModelUpdate(targets, None, CPU, [Target("draft", draft, CONFIG)])

    def test_drafts_of_older_workers_are_found(self) -> None:
        for place in ("speculator", "drafter"):
            proposer = types.SimpleNamespace(**{place: types.SimpleNamespace(model=self.draft)})
            targets = targets_of(self.worker("mtp", model_runner=proposer))
            self.assertEqual([target.model for target in targets], [self.model, self.draft])
        graphs = types.SimpleNamespace(unwrap=lambda: self.draft)
        worker = self.worker("mtp", model_runner=types.SimpleNamespace(drafter=types.SimpleNamespace(model=graphs)))
        self.assertEqual([target.model for target in targets_of(worker)], [self.model, self.draft])
        nothing = types.SimpleNamespace(drafter=types.SimpleNamespace())
        self.assertEqual(len(targets_of(self.worker("ngram", model_runner=nothing))), 1)

    def test_each_call_may_have_a_part_of_an_mtp_layer(self) -> None:
        said: list[str] = []

        class Relaxed:
            def __enter__(self) -> None:
                said.append("relaxed")

            def __exit__(self, *_error: object) -> None:
                said.append("strict")

        fake_vllm.put_module(
            "vllm.model_executor.model_loader.mtp_validation", disable_mtp_completeness_check=Relaxed
        )
        with update_of(Target("target", self.model, CONFIG)) as update:
            update.load(new_weights(2.0, *all_new(2.0))[1])
            self.assertEqual(said, ["relaxed", "strict"])
            update.finish()

    def test_a_vllm_that_looks_for_whole_mtp_layers_after_each_call_is_not_believed(self) -> None:
        load = self.model.load_weights
        message = "MTP speculative decoding layer 4 weights missing from checkpoint. The checkpoint may have been quantized"

        def load_and_look(weights: object) -> None:
            load(weights)
            raise ValueError(message)

        self.model.load_weights = load_and_look
        with update_of(Target("target", self.model, CONFIG)) as update:
            update.load(new_weights(2.0, *all_new(2.0))[1])
            update.finish()
        self.assertEqual(update.report()["models"], ["target"])
        message = "a tensor does not fit"
        with (
            update_of(Target("target", self.model, CONFIG)) as update,
            self.assertRaisesRegex(ValueError, "does not fit"),
        ):
            update.load(new_weights(2.0, *all_new(2.0))[1])


class Plugin(unittest.TestCase):
    def register(self, **base: type) -> list[tuple[str, ...]]:
        registered: list[tuple[str, ...]] = []

        def register_engine(*values: str) -> None:
            if values in registered:
                raise ValueError("already registered")
            registered.append(values)

        fake_vllm.install()
        fake_vllm.put_module("vllm.distributed")
        fake_vllm.put_module("vllm.distributed.weight_transfer")
        fake_vllm.put_module("vllm.distributed.weight_transfer.base", **base)
        factory = types.SimpleNamespace(register_engine=register_engine)
        fake_vllm.put_module("vllm.distributed.weight_transfer.factory", WeightTransferEngineFactory=factory)
        vllm_plugin.register()
        vllm_plugin.register()
        return registered

    def test_it_is_registered_where_engines_have_sessions(self) -> None:
        engine = type("WeightTransferEngine", (), {"start_weight_update": None})
        ours = ("weightcast", "weightcast.vllm_transfer", "WeightcastTransferEngine")
        self.assertEqual(self.register(WeightTransferEngine=engine), [ours])

    def test_it_is_silent_where_they_have_none(self) -> None:
        self.assertEqual(self.register(WeightTransferEngine=type("WeightTransferEngine", (), {})), [])
        fake_vllm.install()
        vllm_plugin.register()


if __name__ == "__main__":
    unittest.main()
