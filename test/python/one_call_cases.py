"""Buckets that a model takes in one call of `load_weights`, and models that cannot: `python one_call_cases.py`."""

from __future__ import annotations

import functools
import types
import unittest
import unittest.mock
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import fake_vllm
import torch
from fake_rank import FakeRank
from fake_vllm import INFO, Layer, Model
from weightcast import buckets
from weightcast.errors import LoadFailed, ParametersMissing, RankLost
from weightcast.vllm_reloadable import Target
from weightcast.vllm_update import install_weights

CPU = torch.device("cpu")
CONFIG = types.SimpleNamespace(quantization=None, dtype=torch.float32, hf_text_config=types.SimpleNamespace())
# Layers end in another bucket than they begin in.
NAMES = [["first.a", "second.a"], ["first.b", "third.b"], ["third.a", "second.b"]]

Pair = tuple[str, torch.Tensor]
Load = Callable[[Iterable[Pair]], Any]


class OneCall(unittest.TestCase):
    def setUp(self) -> None:
        fake_vllm.install()
        self.model = Model(first=Layer("a", "b"), second=Layer("a", "b"), third=Layer("a", "b"))
        self.load_weights = self.model.load_weights
        self.calls = 0
        self.rank = FakeRank()
        self.addCleanup(self.rank.close)

    def loads(self, through: Callable[[Iterable[Pair]], Iterable[Pair]] = iter) -> None:
        """The model looks at what it is given in this way."""

        def load(weights: Iterable[Pair]) -> Any:
            self.calls += 1
            return self.load_weights(through(weights))

        self.model.load_weights = load

    def update(self, value: float, **options: Any) -> None:
        """The rank writes over a bucket as soon as it is answered."""
        numbers = iter(range(100))
        buckets = [{name: torch.full((4,), value + next(numbers)) for name in names} for names in NAMES]
        self.rank.send(buckets, self.take, **options)
        held = {name: [value + number] * 4 for number, name in enumerate(sum(NAMES, []))}
        self.assertEqual(self.model.held(), held)

    def take(self, links: dict[str, str]) -> None:
        targets = [Target("target", self.model, CONFIG)]
        install_weights(links, targets, vllm_config=None, device=CPU, silence_seconds=60)

    def assert_calls(self, calls: int) -> None:
        for value in (10.0, 20.0):
            self.calls = 0
            self.update(value)
            self.assertEqual(self.calls, calls)

    def test_a_model_that_reads_one_tensor_after_another_is_called_once(self) -> None:
        self.loads()
        self.assert_calls(1)

    def test_views_of_the_last_tensor_may_be_held_until_the_next(self) -> None:
        def through(weights: Iterable[Pair]) -> Iterator[Pair]:
            for name, tensor in weights:
                rows = tensor.unsqueeze(0).unbind()
                yield name, rows[0]

        self.loads(through)
        self.assert_calls(1)

    def test_a_model_that_collects_what_it_is_given_is_called_for_each_bucket(self) -> None:
        self.loads(lambda weights: sorted(weights, key=lambda pair: pair[0]))
        self.assert_calls(len(NAMES))

    def test_a_model_that_keeps_one_of_two_for_the_other_is_not_called_on_with_what_it_keeps(self) -> None:
        """As those do that fuse tensors: `b` of a layer is loaded with `a`, which is in the first bucket here."""

        def through(weights: Iterable[Pair]) -> Iterator[Pair]:
            waiting: dict[str, torch.Tensor] = {}
            for name, tensor in weights:
                layer, _, part = name.partition(".")
                if part == "a":
                    waiting[layer] = tensor[:]
                    continue
                if layer in waiting:
                    yield f"{layer}.a", waiting.pop(layer)
                yield name, tensor
            yield from ((f"{layer}.a", tensor) for layer, tensor in waiting.items())

        self.loads(through)
        self.assert_calls(2)

    def test_what_a_model_keeps_from_one_call_to_the_next_is_not_written_over(self) -> None:
        """As a DeepSeek V3.2 keeps the FP8 weight of its indexer until the scale comes."""
        waiting: dict[str, Any] = {}

        def through(weights: Iterable[Pair]) -> Iterator[Pair]:
            for name, tensor in weights:
                layer, _, part = name.partition(".")
                if part == "a":
                    waiting[layer] = {"weight": tensor.view(2, 2).t()}
                    continue
                yield name, tensor
            for layer in list(waiting) if self.calls == len(NAMES) else []:
                yield f"{layer}.a", waiting.pop(layer)["weight"].t().reshape(4)

        self.loads(through)
        with unittest.mock.patch.object(buckets, "MOST_COPIED", 0):
            self.assert_calls(len(NAMES))

    def test_what_a_model_waits_with_is_forgotten_when_an_update_fails_and_missed_when_it_ends(self) -> None:
        waiting: dict[str, dict[str, torch.Tensor]] = {}
        self.model._pending_pairs = waiting

        def through(weights: Iterable[Pair]) -> Iterator[Pair]:
            """A sum of both, as soon as both are there: of a weight and its scale."""
            for name, tensor in weights:
                layer, _, part = name.partition(".")
                entry = waiting.setdefault(layer, {})
                entry[part] = tensor
                if len(entry) == 2:
                    del waiting[layer]
                    yield f"{layer}.a", entry["a"] + entry["b"]
                    yield f"{layer}.b", entry["b"]

        self.loads(through)
        send = functools.partial(self.rank.send, take=self.take)
        of_one, of_two = ({name: torch.full((4,), value) for name in ("first.a", "first.b")} for value in (1.0, 2.0))
        with self.assertRaises(RankLost):
            send([{"first.a": of_one["first.a"]}], stop_after=2)
        others = {f"{layer}.{part}": torch.ones(4) for layer in ("second", "third") for part in "ab"}
        send([{"first.b": of_two["first.b"]}, {"first.a": of_two["first.a"], **others}])
        self.assertEqual(self.model.held()["first.a"], [4.0] * 4)
        with self.assertRaisesRegex(ParametersMissing, "the rest of third"):
            send([of_two, {name: tensor for name, tensor in others.items() if name != "third.b"}])
        self.assertEqual(waiting, {})

    def test_a_large_last_tensor_is_not_copied_but_ends_the_call(self) -> None:
        self.loads(lambda weights: (pair for pair in weights))
        with unittest.mock.patch.object(buckets, "MOST_COPIED", 15):
            self.assert_calls(len(NAMES))

    def test_a_model_that_stops_early_is_called_for_the_next_bucket(self) -> None:
        self.loads(lambda weights: [next(iter(weights))])
        with self.assertRaisesRegex(Exception, r"second\.a|third\.b|second\.b"):
            self.update(10.0)
        self.assertEqual(self.calls, len(NAMES))

    def test_a_failure_in_a_later_bucket_leaves_whole_layers(self) -> None:
        def through(weights: Iterable[Pair]) -> Iterator[Pair]:
            for name, tensor in weights:
                if name == "third.a":
                    raise ValueError("this one cannot be loaded")
                yield name, tensor

        self.update(10.0)
        self.loads(through)
        with self.assertNoLogs("weightcast.receive", "WARNING"), self.assertRaisesRegex(LoadFailed, "third.a.*this one cannot"):
            self.update(20.0)
        self.assertIn("this one cannot be loaded", self.rank.replies[-1]["error"])
        self.assertEqual([reply["ok"] for reply in self.rank.replies], [True, True, True, False])
        self.assert_whole()
        held = self.model.held()
        self.assertEqual((held["first.a"], held["third.a"]), ([20.0] * 4, [14.0] * 4))

    def test_a_rank_that_is_lost_between_two_buckets_leaves_whole_layers(self) -> None:
        self.update(10.0)
        for answers in (2, 3):
            with self.assertNoLogs("weightcast.receive", "WARNING"), self.assertRaises(RankLost):
                self.update(20.0, stop_after=answers)
            self.assert_whole()

    def assert_whole(self) -> None:
        for layer in self.model.modules():
            self.assertIsNone(INFO[layer].load_numel_total)
            self.assertFalse(any(parameter.is_meta for parameter in layer._parameters.values()))


if __name__ == "__main__":
    unittest.main()
