"""Updates of models as SGLang has them, with the SGLang of fake_sglang.py: `python sglang_update_cases.py`."""

from __future__ import annotations

import importlib
import sys
import types
import unittest
import unittest.mock
from collections.abc import Callable
from typing import Any

import fake_sglang
import torch
from fake_sglang import Deriving, Layer, Model, Negating, Norm, Packing, Restoring
from weightcast.errors import BufferInUse, ModelNotReloadable, ParametersMissing, WeightcastError
from weightcast.messages import Open

CPU = torch.device("cpu")
ALL = ("first.a", "first.b", "norm.weight")


def weights_of(value: float, *names: str, size: int = 4) -> list[tuple[str, torch.Tensor]]:
    """Views of one link buffer."""
    buffer = torch.full((len(names), 4), value)
    return [(name, buffer[row][:size]) for row, name in enumerate(names)]


class WithSglang(unittest.TestCase):
    def install(self, **version: bool) -> None:
        fake_sglang.install(**version)
        # They have SGLang's modules as they were imported first.
        for name in [name for name in sys.modules if name.startswith("weightcast.sglang")]:
            del sys.modules[name]
        importlib.import_module("weightcast.sglang_plugin").register()

    def setUp(self) -> None:
        self.install()

    def started(self, layer: Layer | None = None, *, load_format: str = "auto") -> Model:
        model = Model(first=layer or Layer("a", "b"), norm=Norm())
        names = () if load_format == "dummy" else ALL
        return fake_sglang.start(model, weights_of(1.0, *names), load_format)

    def reload(self, model: Model, which: str = "target") -> Any:
        from weightcast.sglang_reload import SglangReload

        return SglangReload(which, model, torch.bfloat16, CPU)

    def update(self, model: Model, value: float, *buckets: tuple[str, ...], which: str = "target") -> Any:
        """Every link buffer is overwritten as soon as its bucket is answered."""
        reload = self.reload(model, which)
        for names in buckets:
            bucket = weights_of(value, *names)
            reload.load(bucket)
            for _, tensor in bucket:
                tensor.fill_(torch.nan)
        reload.finish()
        return reload

    def held(self, model: Model) -> dict[str, list[float]]:
        return {name: parameter.flatten().tolist() for name, parameter in model.named_parameters()}


class Updates(WithSglang):
    def test_layers_that_end_in_another_bucket_are_right_again_and_again(self) -> None:
        model = self.started()
        for value in (2.0, 3.0):
            reload = self.update(model, value, ("first.a",), ("first.b", "norm.weight"))
            self.assertEqual(self.held(model), {name: [value] * 4 for name in ALL})
            self.assertEqual(reload.coverage, "complete")
        self.assertEqual(model.first.processed, 3)
        self.assertEqual(torch.get_default_dtype(), torch.float32)

    def test_layers_are_loaded_under_the_type_of_the_model(self) -> None:
        model, seen = self.started(), []
        load = model.load_weights
        model.load_weights = lambda weights: (seen.append(torch.get_default_dtype()), load(weights))
        self.update(model, 2.0, ALL)
        self.assertEqual(seen, [torch.bfloat16])

    def test_what_a_layer_holds_of_a_bucket_is_cloned(self) -> None:
        model = self.started(Layer("a", "b", keeps=True))
        self.update(model, 2.0, ALL)
        self.assertEqual(self.held(model), {name: [2.0] * 4 for name in ALL})

    def test_a_model_that_hides_what_it_holds_is_an_error(self) -> None:
        model, hidden = self.started(), []
        model.load_weights = lambda weights: hidden.extend(weights)
        with self.assertRaises(BufferInUse):
            self.update(model, 2.0, ALL)

    def test_what_lay_elsewhere_after_processing_is_where_it_was(self) -> None:
        model = self.started(Layer("a", "b", method=Deriving()))
        derived = model.first.derived
        self.update(model, 2.0, ALL)
        self.assertEqual(derived.tolist(), [4.0] * 4)
        self.assertEqual(model.first.derived.data_ptr(), derived.data_ptr())

    def test_an_error_of_post_processing_comes_out(self) -> None:
        model = self.started()
        model.first.fails = True
        with self.assertRaisesRegex(ValueError, "the layer cannot be processed"):
            self.update(model, 2.0, ALL)


class Coverage(WithSglang):
    def test_what_the_start_filled_and_the_update_did_not_is_named(self) -> None:
        model = self.started()
        with self.assertRaisesRegex(ParametersMissing, r"of the target model: first\.b, norm\.weight$"):
            self.update(model, 2.0, ("first.a",))
        # The model was processed all the same, and the next update is like any other.
        self.assertEqual(model.first.processed, 2)
        self.update(model, 3.0, ALL)

    def test_half_of_a_parameter_is_not_all_of_it(self) -> None:
        model = Model(first=Layer("a", "b"), norm=Norm())
        halves = [(name, torch.ones(2)) for name in ("first.a:0", "first.a:1")]
        fake_sglang.start(model, halves)
        reload = self.reload(model)
        reload.load(halves[:1])
        with self.assertRaisesRegex(ParametersMissing, r"first\.a \(1\)$"):
            reload.finish()

    def test_it_is_unknown_after_a_start_with_dummy_weights_and_of_a_draft(self) -> None:
        reload = self.update(self.started(load_format="dummy"), 2.0, ("first.a",))
        self.assertEqual(reload.coverage, "unknown")
        self.assertEqual(self.update(self.started(), 2.0, ("first.a",), which="draft").coverage, "unknown")

    def test_a_target_that_takes_nothing_is_an_error(self) -> None:
        with self.assertRaisesRegex(WeightcastError, "took none of the tensors"):
            self.update(self.started(), 2.0, ("foreign",))
        self.update(self.started(), 2.0, ("foreign",), which="draft")


class Refusals(WithSglang):
    def test_a_repacked_layer_is_refused_by_name(self) -> None:
        model = self.started(Layer("a", "b", method=Packing()))
        with self.assertRaisesRegex(ModelNotReloadable, r"first of the target model \(Packing\) .* undo it: a, b"):
            self.reload(model)

    def test_a_repacked_layer_that_sglang_restores_is_loaded(self) -> None:
        model = self.started(Layer("a", "b", method=Restoring()))
        for value in (2.0, 3.0):
            reload = self.update(model, value, ALL)
            self.assertEqual(self.held(model), {name: [value] * 4 for name in ALL})
            self.assertEqual(model.first.a.shape, (2, 2))
            self.assertEqual(reload.coverage, "complete")

    def test_an_older_sglang_restores_nothing(self) -> None:
        self.install(restores=False)
        with self.assertRaises(ModelNotReloadable):
            self.reload(self.started(Layer("a", "b", method=Restoring())))
        self.update(self.started(), 2.0, ALL)

    def test_a_model_whose_start_nobody_saw_is_refused(self) -> None:
        with self.assertRaisesRegex(ModelNotReloadable, "has not seen its start"):
            self.reload(Model(first=Layer("a")))

    def test_a_layer_that_another_way_made_ready_is_refused(self) -> None:
        model = self.started()
        model.second = Layer("a")
        with self.assertRaisesRegex(ModelNotReloadable, "has not seen"):
            self.reload(model)


class Requests(WithSglang):
    links = {"HOST-0": "ipc://@weightcast-HOST-0-1.sock"}
    ours = types.SimpleNamespace(zmq_handles=links, flush_cache=False)
    flushing = types.SimpleNamespace(zmq_handles=links, flush_cache=True)

    def ask(
        self,
        manager: Any,
        request: Any = ours,
        send: Callable[..., None] | None = None,
        accept_unproven: bool = False,
        exchanges: int | None = None,
    ) -> Any:
        """`send`: what a rank does with the worker's functions that load and process."""
        sglang_update = importlib.import_module("weightcast.sglang_update")

        def receive(*_values: Any, load_weights: Any, post_hook: Any, begin: Any, **_named: Any) -> Any:
            begin(Open(2, "HOST-0", 1, "step@1", b"", 0, False, False, accept_unproven, exchanges))
            if send is not None:
                send(load_weights)
            post_hook()
            return types.SimpleNamespace(version="step@1", tensors=3)

        with unittest.mock.patch.object(sglang_update, "receive_weights", receive):
            return manager.update_weights_from_ipc(request)

    def runner(self, model: Model, is_draft: bool) -> Any:
        config = types.SimpleNamespace(dtype=torch.float32)
        return types.SimpleNamespace(model=model, is_draft_worker=is_draft, device="cpu", model_config=config)

    def manager(self, *models: Model) -> Any:
        updater = sys.modules["sglang.srt.managers.scheduler_components.weight_updater"]
        runners = [self.runner(model, index > 0) for index, model in enumerate(models)]
        return updater.SchedulerWeightUpdaterManager(*runners)

    def test_target_and_draft_are_updated_and_the_answer_says_so(self) -> None:
        target, draft = self.started(), self.started()
        answer = self.ask(self.manager(target, draft), send=lambda load: load(weights_of(2.0, *ALL)))
        self.assertTrue(answer.success)
        self.assertEqual(
            answer.message,
            "weightcast: step@1 in the target model, coverage complete; step@1 in the draft model, coverage unknown",
        )
        self.assertEqual(self.held(draft), self.held(target))

    def test_an_error_is_the_answer(self) -> None:
        model = self.started()
        model.first.fails = True
        answer = self.ask(self.manager(model), send=lambda load: load(weights_of(2.0, *ALL)))
        self.assertEqual((answer.success, answer.message), (False, "ValueError: the layer cannot be processed"))
        self.assertNotIn("sglang.srt.checkpoint_engine.checkpoint_engine_worker", sys.modules)

    def test_a_draft_that_is_refused_leaves_the_target_as_it_is(self) -> None:
        target = self.started()
        manager = self.manager(target, self.started(Layer("a", method=Packing())))
        answer = self.ask(manager, send=lambda load: load(weights_of(2.0, *ALL)))
        self.assertIn("first of the draft model (Packing)", answer.message)
        self.assertFalse(answer.success)
        self.assertEqual(self.held(target), {name: [1.0] * 4 for name in ALL})

    def test_layers_that_are_changed_in_place_are_refused_before_any_model_is_touched_unless_they_are_accepted(self) -> None:
        target, draft = self.started(), self.started(Layer("a", "b", method=Negating()))
        manager = self.manager(target, draft)
        answer = self.ask(manager, send=lambda load: load(weights_of(2.0, *ALL)))
        self.assertFalse(answer.success)
        self.assertRegex(answer.message, r"first of the draft model \(Negating\) .*: a, b; .*acceptUnproven")
        self.assertEqual(self.held(target), {name: [1.0] * 4 for name in ALL})
        answer = self.ask(manager, send=lambda load: load(weights_of(2.0, *ALL)), accept_unproven=True)
        self.assertTrue(answer.success, answer.message)
        self.assertEqual(self.held(draft)["first.a"], [-2.0] * 4)

    def test_weights_that_are_sent_more_or_less_often_than_taken_are_refused_before_any_model_is_touched(self) -> None:
        models = [self.started() for _ in range(3)]
        refusals = (
            (1, 2, "no draft model takes the weights: leave hasDraftModel"),
            (2, 1, "its draft model takes the weights: tell the cluster hasDraftModel: true"),
            (3, 1, "its draft model takes the weights: tell the cluster hasDraftModel: true"),
        )
        for taken, sent, words in refusals:
            answer = self.ask(self.manager(*models[:taken]), exchanges=sent)
            self.assertFalse(answer.success)
            self.assertIn(words, answer.message)
        self.assertEqual([self.held(model)["first.a"] for model in models], [[1.0] * 4] * 3)
        answer = self.ask(self.manager(*models[:2]), send=lambda load: load(weights_of(2.0, *ALL)), exchanges=2)
        self.assertTrue(answer.success, answer.message)

    def test_all_drafts_of_a_model_take_the_weights_in_one_exchange(self) -> None:
        target, *drafts = [self.started() for _ in range(4)]
        sent: list[int] = []

        def send(load: Callable[..., None]) -> None:
            sent.append(len(sent))
            load(weights_of(2.0, "first.a"))
            load(weights_of(2.0, "first.b", "norm.weight"))

        answer = self.ask(self.manager(target, *drafts), send=send, exchanges=2)
        self.assertTrue(answer.success, answer.message)
        self.assertEqual(sent, [0, 1])
        self.assertRegex(answer.message, "step@1 in the 3 draft models, coverage unknown$")
        for model in (target, *drafts):
            self.assertEqual(self.held(model), {name: [2.0] * 4 for name in ALL})
            self.assertEqual(model.first.processed, 2)

    def test_drafts_that_sglang_cannot_reach_keep_their_weights(self) -> None:
        """As SGLang 0.5.16 has them: it looks for the runners of any draft when the target is done."""

        def update(manager: Any, request: Any) -> Any:
            from sglang.srt.checkpoint_engine.checkpoint_engine_worker import (
                SGLangCheckpointEngineWorkerExtensionImpl as Extension,
            )

            Extension(manager.tp_worker.model_runner).update_weights_from_ipc(request.zmq_handles)
            if manager.draft_worker is not None:
                for runner in manager.draft_worker.draft_worker.draft_runners:
                    Extension(runner).update_weights_from_ipc(request.zmq_handles)
            return types.SimpleNamespace(success=True, message="")

        def speculating(inner: Any) -> Any:
            return types.SimpleNamespace(draft_worker=inner, update_weights_from_ipc=None)

        from weightcast.sglang_update import update_weights

        for draft_worker, models, takes in (
            (None, 1, "none"),
            # n-grams, and DFlash.
            (speculating(None), 1, "none"),
            (speculating(types.SimpleNamespace(model_runner="a draft")), 1, "nothing"),
            (types.SimpleNamespace(), 1, "nothing"),
            (speculating(types.SimpleNamespace(draft_runners=[self.runner(self.started(), True)])), 2, "apart"),
        ):
            target = self.started()
            worker = types.SimpleNamespace(model_runner=self.runner(target, False))
            manager = types.SimpleNamespace(
                tp_worker=worker, draft_worker=draft_worker, tp_cpu_group=None, offload_tags=set()
            )
            manager.update_weights_from_ipc = lambda request, manager=manager: update_weights(update, manager, request)
            answer = self.ask(manager, send=lambda load: load(weights_of(2.0, *ALL)), exchanges=models)
            self.assertTrue(answer.success, answer.message)
            self.assertEqual(answer.message.count("step@1"), models)
            self.assertIs(manager.draft_worker, draft_worker)
            self.assertEqual(self.held(target), {name: [2.0] * 4 for name in ALL})
            self.assertEqual(self.said(manager)["draft"]["takes"], takes)

    def said(self, manager: Any) -> dict[str, Any]:
        """By a scheduler, of its internal state."""
        scheduler = sys.modules["sglang.srt.managers.scheduler"].Scheduler(manager)
        return scheduler.get_internal_state(None).internal_state["weightcast"]

    def test_a_scheduler_says_what_an_update_would_be_refused_for(self) -> None:
        manager = self.manager(self.started(), self.started(Layer("a", "b", method=Negating())))
        said = self.said(manager)
        self.assertEqual((said["protocol"], said["refusal"], said["held"]), (2, None, None))
        self.assertRegex(said["unproven"], r"first of the draft model \(Negating\)")
        self.assertEqual(said["draft"]["takes"], "apart")
        self.assertEqual(self.said(self.manager(self.started()))["draft"]["takes"], "none")
        manager.offload_tags.add("weights")
        self.assertRegex(self.said(manager)["refusal"], "weights are released")
        packed = self.manager(self.started(Layer("a", method=Packing())))
        self.assertRegex(self.said(packed)["refusal"], r"first of the target model \(Packing\)")

    def test_a_scheduler_says_which_version_it_holds(self) -> None:
        manager = self.manager(self.started())
        self.ask(manager, send=lambda load: load(weights_of(2.0, *ALL)))
        self.assertEqual(self.said(manager)["held"], {"version": "step@1"})

        def fail(load: Callable[..., None]) -> None:
            load(weights_of(3.0, *ALL))
            raise RuntimeError("the rank is gone")

        self.ask(manager, send=fail)
        self.assertEqual(self.said(manager)["held"], {"version": None})

    def test_weights_that_somebody_else_has_changed_are_not_the_version_that_they_were_given(self) -> None:
        model = self.started()
        manager = self.manager(model)
        self.ask(manager, send=lambda load: load(weights_of(2.0, *ALL)))
        next(model.parameters()).data.add_(1.0)
        self.assertEqual(self.said(manager)["held"], {"version": None, "isForeign": True})
        # SGLang moves experts in place.
        sys.modules["weightcast.sglang_runners"].runners_of(manager)[0].eplb_manager = object()
        self.assertEqual(self.said(manager)["held"], {"version": "step@1"})

    def test_a_scheduler_whose_models_cannot_be_seen_answers_as_ever(self) -> None:
        scheduler = sys.modules["sglang.srt.managers.scheduler"].Scheduler(None)
        with self.assertLogs("weightcast.sglang_state", "ERROR"):
            self.assertEqual(scheduler.get_internal_state(None).internal_state, {"tp_size": 1})

    def test_released_weights_are_refused(self) -> None:
        manager = self.manager(self.started())
        manager.offload_tags.add("weights")
        answer = self.ask(manager)
        self.assertFalse(answer.success)
        self.assertIn("weights are released", answer.message)

    def test_an_engine_that_could_not_flush_its_cache_is_refused_before_it_would_end(self) -> None:
        model = self.started()
        manager = self.manager(model)
        for idle in (False, True):
            manager.is_fully_idle = lambda idle=idle: idle
            answer = self.ask(manager, self.flushing, send=lambda load: load(weights_of(2.0, *ALL)))
            self.assertEqual(answer.success, idle)
            if not idle:
                self.assertRegex(answer.message, "EngineBusy: requests run or wait .*: pause it with abort")
                self.assertEqual(self.held(model), {name: [1.0] * 4 for name in ALL})
        manager.is_fully_idle = lambda: False
        self.assertTrue(self.ask(manager, send=lambda load: load(weights_of(3.0, *ALL))).success)

    def test_what_old_weights_made_of_images_goes_with_the_cache(self) -> None:
        utils = types.ModuleType("sglang.srt.managers.mm_utils")
        utils.embedding_cache = {"an image": 1}
        model = self.started()
        with unittest.mock.patch.dict(sys.modules, {utils.__name__: utils}):
            self.ask(self.manager(model), send=lambda load: load(weights_of(2.0, *ALL)))
            self.assertEqual(len(utils.embedding_cache), 1)
            self.ask(self.manager(model), self.flushing, send=lambda load: load(weights_of(2.0, *ALL)))
            self.assertEqual(len(utils.embedding_cache), 0)

    def test_a_draft_that_took_nothing_is_not_processed_again(self) -> None:
        draft = fake_sglang.start(Model(head=Layer("a", method=Negating())), weights_of(1.0, "head.a"), "auto")
        manager = self.manager(self.started(), draft)
        answer = self.ask(manager, send=lambda load: load(weights_of(2.0, *ALL)), accept_unproven=True)
        self.assertIn("in the draft model, took none of the tensors", answer.message)
        self.assertEqual(self.held(draft), {"head.a": [-1.0] * 4})
        self.assertEqual(draft.head.processed, 1)

    def test_the_link_of_checkpoint_engine_is_left_to_sglang(self) -> None:
        theirs = types.SimpleNamespace(zmq_handles={"GPU-0": "ipc://@checkpoint-engine-GPU-0-1.sock"})
        answer = self.ask(self.manager(self.started()), theirs)
        self.assertIn("ImportError", answer.message)


class Registering(WithSglang):
    def test_a_process_without_models_is_left_alone(self) -> None:
        before = fake_sglang.Manager.update_weights_from_ipc
        self.install(schedules=False)
        updater = sys.modules["sglang.srt.managers.scheduler_components.weight_updater"]
        self.assertIs(updater.SchedulerWeightUpdaterManager.update_weights_from_ipc, before)

    def test_an_sglang_that_has_no_update_we_know_starts_all_the_same(self) -> None:
        fake_sglang.install()
        del sys.modules["sglang.srt.managers.scheduler_components.weight_updater"]
        with self.assertLogs("weightcast.sglang_plugin", "WARNING"):
            importlib.import_module("weightcast.sglang_plugin").register()


if __name__ == "__main__":
    unittest.main()
