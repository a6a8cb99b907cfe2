"""What vLLM's workers answer to calls, behind an executor as vLLM's is for several processes: `python vllm_worker_cases.py`."""

from __future__ import annotations

import abc
import types
import unittest
import unittest.mock
from collections import deque
from typing import Any, Generic, TypeVar

import fake_vllm
import torch
from fake_rank import FakeRank
from fake_vllm import INFO, Attention, Layer, Model
from weightcast.worker import VllmWorkerExtension

CPU = torch.device("cpu")
MODEL_CONFIG = types.SimpleNamespace(quantization=None, dtype=torch.float32, hf_text_config=types.SimpleNamespace())


class Executor:
    """Of vllm/v1/executor/multiproc_executor.py: one queue of answers for each worker, and the first failure is raised."""

    def __init__(self, workers: list[Any]) -> None:
        self.workers = workers
        self.answers: list[deque[Any]] = [deque() for _ in workers]

    def collective_rpc(self, method: str, *args: Any) -> list[Any]:
        for worker, answers in zip(self.workers, self.answers, strict=True):
            try:
                answers.append((True, getattr(worker, method)(*args)))
            except Exception as error:
                answers.append((False, str(error)))
        said = []
        for answers in self.answers:
            succeeded, result = answers.popleft()
            if not succeeded:
                raise RuntimeError(f"Worker failed with error '{result}'")
            said.append(result)
        return said


def session_worker(model: Model, **config: Any) -> Any:
    """A worker of vLLM 0.32 whose weight-transfer engine is ours (vllm/v1/worker/gpu_worker.py)."""
    from vllm.v1.worker.worker_base import WorkerBase
    from weightcast import vllm_transfer

    class Worker(WorkerBase):
        def __init__(self) -> None:
            self.device = CPU
            self.model_config = MODEL_CONFIG
            self.draft: Any = None
            self.vllm_config = types.SimpleNamespace(
                parallel_config=None, model_config=MODEL_CONFIG, speculative_config=None, **config
            )
            self.weight_transfer_engine = vllm_transfer.WeightcastTransferEngine(None, self.vllm_config, CPU, model)
            self._weight_update_active = False

        def get_model(self) -> Any:
            return model

        def get_draft_model(self) -> Any:
            return self.draft

        def start_weight_update(self) -> None:
            self._start()

        def start_draft_weight_update(self) -> None:
            self._start(self.draft)

        def _start(self, draft: Any = None) -> None:
            if self._weight_update_active:
                raise RuntimeError("start_weight_update called while a weight update is already active.")
            if draft is not None:
                self.weight_transfer_engine.set_weight_update_target(draft, MODEL_CONFIG)
            self.weight_transfer_engine.start_weight_update()
            self._weight_update_active = True

        def update_weights(self, info: dict[str, Any]) -> None:
            try:
                self.weight_transfer_engine.update_weights(info)
            except BaseException:
                self._weight_update_active = False
                self.weight_transfer_engine.reset_weight_update_target()
                raise

        def finish_weight_update(self) -> None:
            self.weight_transfer_engine.finish_weight_update()
            self.weight_transfer_engine.reset_weight_update_target()
            self._weight_update_active = False

    return Worker()


def put_transfer_modules() -> None:
    """Of vllm/distributed/weight_transfer/base.py."""
    init, update = TypeVar("init"), TypeVar("update")

    class WeightTransferEngine(abc.ABC, Generic[init, update]):
        def __init__(self, _config: Any, vllm_config: Any, device: torch.device, model: Any) -> None:
            self.vllm_config, self.device, self.model = vllm_config, device, model
            self.model_config = self._default_model_config = vllm_config.model_config
            self._default_model = model

        def set_weight_update_target(self, model: Any, model_config: Any) -> None:
            self.model, self.model_config = model, model_config

        def reset_weight_update_target(self) -> None:
            self.model, self.model_config = self._default_model, self._default_model_config

        def update_weights(self, info: dict[str, Any]) -> None:
            self.receive_weights(self.update_info_cls(**info))

    fake_vllm.put_module("vllm.distributed")
    fake_vllm.put_module("vllm.distributed.weight_transfer")
    fake_vllm.put_module(
        "vllm.distributed.weight_transfer.base",
        WeightTransferEngine=WeightTransferEngine,
        WeightTransferInitInfo=type("WeightTransferInitInfo", (), {}),
        WeightTransferUpdateInfo=type("WeightTransferUpdateInfo", (), {}),
    )
    fake_vllm.put_module("vllm.v1")
    fake_vllm.put_module("vllm.v1.worker")
    fake_vllm.put_module("vllm.v1.worker.worker_base", WorkerBase=type("WorkerBase", (), {}))


def model_of_one() -> Model:
    return Model(first=Layer("a", "b"))


def extension_worker(model: Model) -> Any:
    worker = VllmWorkerExtension()
    vllm_config = types.SimpleNamespace(parallel_config=None, model_config=MODEL_CONFIG, speculative_config=None)
    vars(worker).update(
        get_model=lambda: model, model_config=MODEL_CONFIG, vllm_config=vllm_config, device=CPU, get_draft_model=lambda: None
    )
    return worker


class Workers(unittest.TestCase):
    def setUp(self) -> None:
        fake_vllm.install()
        put_transfer_modules()

    def faces(self) -> list[tuple[str, Any]]:
        return [("extension", extension_worker), ("session", session_worker)]

    def test_a_call_that_fails_in_all_workers_leaves_no_answers_to_the_next(self) -> None:
        for face, worker in self.faces():
            with self.subTest(face), self.assertLogs("vllm.weightcast", "ERROR"):
                executor = Executor([worker(model_of_one()) for _ in range(3)])
                answers = executor.collective_rpc("update_weights_from_weightcast", {})
                self.assertEqual(len([one for one in answers if "WEIGHTCAST_DEVICE_UUID" in one["error"]]), 3)
                self.assertEqual([len(left) for left in executor.answers], [0, 0, 0])
                for answer in executor.collective_rpc("weightcast_protocol"):
                    self.assertEqual((answer["protocol"], answer["held"]), (2, None))

    def test_an_update_is_one_session_of_each_worker_and_leaves_none_open(self) -> None:
        model = model_of_one()
        worker = session_worker(model)
        rank = FakeRank()
        self.addCleanup(rank.close)
        tensors = {f"first.{name}": torch.full((4,), 2.0) for name in "ab"}
        answer: list[Any] = []
        rank.send([tensors], lambda links: answer.append(worker.update_weights_from_weightcast(links, 60)))
        self.assertEqual(answer[0]["models"], ["target"])
        self.assertFalse(worker._weight_update_active)
        self.assertEqual(model.held()["first.a"], [2.0] * 4)
        self.assertEqual(worker.weightcast_protocol()["held"], {"version": answer[0]["version"]})

    def test_a_session_of_somebody_else_is_an_answer_and_can_be_closed(self) -> None:
        worker = session_worker(model_of_one())
        worker.start_weight_update()
        with self.assertLogs("vllm.weightcast", "ERROR"):
            self.assertRegex(worker.update_weights_from_weightcast({})["error"], "already active")
            self.assertTrue(worker._weight_update_active)
            self.assertEqual(worker.weightcast_close_session(), {})
            self.assertRegex(worker.update_weights_from_weightcast({})["error"], "WEIGHTCAST_DEVICE_UUID")
        self.assertFalse(worker._weight_update_active)

    def test_drafts_of_a_session_take_the_weights_apart(self) -> None:
        worker = session_worker(model_of_one())
        self.assertEqual(worker.weightcast_protocol()["draft"]["takes"], "none")
        with self.assertLogs("vllm.weightcast", "ERROR"):
            self.assertRegex(worker.update_weights_from_weightcast({}, 60, True)["error"], "no draft model that takes")
        worker.draft = Model(head=Layer("a"))
        worker.vllm_config.speculative_config = types.SimpleNamespace(method="mtp", draft_model_config=MODEL_CONFIG)
        draft = worker.weightcast_protocol()["draft"]
        self.assertEqual(draft["takes"], "apart")
        self.assertRegex(draft["why"], "hasDraftModel")


class Refusals(unittest.TestCase):
    """What an engine says before it is paused."""

    def setUp(self) -> None:
        fake_vllm.install()
        self.model = Model(first=Layer("a"))
        self.worker = extension_worker(self.model)

    def said(self) -> dict[str, Any]:
        return self.worker.weightcast_protocol()

    def test_a_worker_that_can_be_updated_says_so(self) -> None:
        said = self.said()
        self.assertEqual(
            (said["refusal"], said["unproven"], said["isSteady"], said["held"], said["waiting"], said["device"]),
            (None, None, True, None, None, None),
        )

    def test_what_an_update_would_be_refused_for_is_said_and_changes_nothing(self) -> None:
        self.model.first.quant_method = types.SimpleNamespace(moe_kernel=object())
        self.assertRegex(self.said()["refusal"], "experts for the CPU")
        self.model.first.quant_method = None
        INFO[self.model.first] = fake_vllm.Info(({}, {}))
        self.assertRegex(self.said()["refusal"], "no record of how the target model was created")
        # A layer that another backend's session has under way is left alone.
        model = Model(first=Layer("a"), attention=Attention(Layer("b")))
        fake_vllm.initialize_layerwise_reload(model)
        self.worker.get_model = lambda: model
        self.said()
        self.assertIsNotNone(INFO[model.first].load_numel_total)

    def test_what_is_unproven_is_said_by_itself(self) -> None:
        base = type("FusedMoEMethodBase", (), {})
        self.model.first.quant_method = type("Fp8MoEMethod", (base,), {})()
        said = self.said()
        self.assertIsNone(said["refusal"])
        self.assertRegex(said["unproven"], "quantised experts")
        fake_vllm.install(layerwise=False)
        self.assertIsNone(self.said()["unproven"])

    def test_weights_that_may_fall_asleep_or_experts_that_may_move_are_asked_again(self) -> None:
        self.worker.vllm_config.parallel_config = types.SimpleNamespace(enable_eplb=True)
        self.assertFalse(self.said()["isSteady"])
        self.worker.vllm_config.parallel_config = None
        self.worker.vllm_config.model_config = types.SimpleNamespace(enable_sleep_mode=True)
        self.assertFalse(self.said()["isSteady"])

    def test_what_waits_for_its_layer_on_a_gpu_is_said_with_the_share_of_experts(self) -> None:
        cuda = torch.device("cuda", 0)
        platform = types.SimpleNamespace(get_device_uuid=lambda index: f"GPU-{index}")
        fake_vllm.put_module("vllm.platforms", current_platform=platform)
        self.worker.device = cuda
        self.assertEqual((self.said()["waiting"], self.said()["device"]), ({"experts": 1.0}, "GPU-0"))
        self.model.first.local_num_experts, self.model.first.global_num_experts = 2, 8
        self.assertEqual(self.said()["waiting"], {"experts": 0.25})
        fake_vllm.install(layerwise=False)
        fake_vllm.put_module("vllm.platforms", current_platform=platform)
        self.assertIsNone(self.said()["waiting"])

    def test_a_question_that_fails_leaves_the_protocol_to_be_known(self) -> None:
        def fail() -> None:
            raise RuntimeError("no model")

        self.worker.get_model = fail
        with self.assertLogs("vllm.weightcast", "ERROR"):
            self.assertEqual(self.said(), {"protocol": 2})

    def update(self, value: float) -> str:
        rank = FakeRank()
        self.addCleanup(rank.close)
        answers: list[Any] = []
        tensors = {"first.a": torch.full((4,), value)}
        rank.send([tensors], lambda links: answers.append(self.worker.update_weights_from_weightcast(links, 60)))
        return answers[0]["version"]

    def test_weights_that_somebody_else_has_changed_are_not_the_version_that_they_were_given(self) -> None:
        given = {"version": self.update(2.0)}
        self.assertEqual(self.said()["held"], given)
        weight = self.model.first.a
        weight.data.copy_(weight.data.clone())
        self.assertEqual(self.said()["held"], given)
        changes: list[tuple[str, Any]] = [
            ("in place", lambda: weight.data[3].add_(1.0)),
            ("another tensor", lambda: setattr(self.model.first, "a", torch.nn.Parameter(torch.zeros(4)))),
            ("a session that is under way", lambda: fake_vllm.initialize_layerwise_reload(self.model)),
        ]
        for how, change in changes:
            with self.subTest(how):
                change()
                self.assertEqual(self.said()["held"], {"version": None, "isForeign": True})
            self.assertEqual({"version": self.update(2.0)}, self.said()["held"])

    def test_weights_that_cannot_be_read_now_are_what_they_were_given(self) -> None:
        given = {"version": self.update(2.0)}
        self.model.first.a.data.fill_(9.0)
        asleep = types.SimpleNamespace(tag="weights", is_asleep=True, cpu_backup_tensor=None)
        allocator = types.SimpleNamespace(instance=types.SimpleNamespace(pointer_to_data={1: asleep}))
        fake_vllm.put_module("vllm.device_allocator.cumem", CuMemAllocator=allocator)
        self.assertEqual(self.said()["held"], given)
        # From before the version that has `is_asleep`, awake or asleep on level 2.
        del asleep.is_asleep
        self.assertEqual(self.said()["held"], given)
        asleep.is_asleep = False
        self.worker.vllm_config.offload_config = types.SimpleNamespace(prefetch=types.SimpleNamespace(offload_group_size=2))
        self.assertEqual(self.said()["held"], given)
        self.worker.vllm_config.offload_config = None
        self.assertTrue(self.said()["held"]["isForeign"])

    def test_an_update_that_breaks_off_leaves_no_version(self) -> None:
        rank = FakeRank()
        self.addCleanup(rank.close)
        bad = {"first.a": torch.zeros(5)}
        with self.assertLogs("vllm.weightcast", "ERROR"):
            rank.send([bad], lambda links: self.worker.update_weights_from_weightcast(links, 60))
        self.assertEqual(self.said()["held"], {"version": None})


if __name__ == "__main__":
    unittest.main()
