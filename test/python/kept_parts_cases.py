"""What a worker keeps of tensors, and updates by parts: `python kept_parts_cases.py`. The vLLM is that of fake_vllm.py."""

from __future__ import annotations

import copy
import itertools
import logging
import pickle
import random
import types
import unittest
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fake_vllm
import msgpack
import numpy
import torch
from fake_rank import FakeRank, digests_of, kept_of
from fake_vllm import Model, Split
from weightcast.cuts import NOTHING, WHOLE, Cut
from weightcast.dtypes import view_of
from weightcast.errors import LoadFailed, PartsChanged, PartsUnknown, ProtocolError
from weightcast.kept_parts import KeptParts
from weightcast.messages import Open, Tensor, decode_request
from weightcast.reads import HandedOn, ReadWatch, Watched
from weightcast.vllm_reloadable import Target
from weightcast.vllm_update import install_weights

CPU = torch.device("cpu")
CONFIG = types.SimpleNamespace(quantization=None, dtype=torch.float32, hf_text_config=types.SimpleNamespace())
Loader = Callable[[torch.Tensor], object]


def cut_of(shape: Sequence[int], load: Loader, dtype: torch.dtype = torch.float32, name: str = "F32") -> Cut:
    """What `load` reads of a tensor that has neighbours."""
    buffer = torch.zeros(3, *shape, dtype=dtype)
    watched = [Watched(Tensor(str(number), name, tuple(shape), 0), one) for number, one in enumerate(buffer)]
    with ReadWatch(watched):
        load(buffer[1])
    before, cut, after = (one.cut() for one in watched)
    # Where a read of nothing lies, between two tensors, does not say whose it is.
    assert {before, after} <= {NOTHING, cut if cut == WHOLE else NOTHING}, "a neighbour was read"
    return cut


def handed_on(load: Loader) -> list[str | None]:
    """Which tensor `load` hands on, outside of inference mode and in it."""
    tensor = torch.zeros(4, 2)
    watch = ReadWatch([Watched(Tensor("a", "F32", (4, 2), 0), tensor)])
    found = []
    for inference in (False, True):
        with torch.inference_mode(inference), watch, HandedOn(watch) as one:
            load(tensor)
        found.append(one.name)
    return found


def copied(tensor: torch.Tensor) -> None:
    torch.empty(tensor.shape, device="meta").copy_(tensor)


class Reads(unittest.TestCase):
    def assert_cut(self, shape: Sequence[int], expected: Cut, *loads: Loader) -> None:
        for number, load in enumerate(loads):
            for inference in (False, True):
                with self.subTest(load=number, inference=inference), torch.inference_mode(inference):
                    self.assertEqual(cut_of(shape, load), expected)

    def test_rows_and_columns_by_any_view(self) -> None:
        self.assert_cut(
            (8, 6),
            Cut(0, 4, 2),
            lambda w: copied(w.narrow(0, 4, 2)),
            lambda w: copied(w[4:6].t()),
            lambda w: copied(w.t().chunk(4, dim=1)[2]),
            lambda w: copied(w.view(4, 2, 6)[2]),
            lambda w: copied(w.reshape(-1)[24:36]),
            lambda w: w.view(torch.uint8)[4:6].clone(),
            lambda w: torch.empty(2, 6).copy_(w[4:6]),
            lambda w: torch.cat([torch.zeros(1, 6), w[4:6]]),
            lambda w: torch.add(torch.zeros(2, 6), other=w[4:6]),
            lambda w: (copied(w[4:5]), copied(w[4:6])),
            lambda w: (w[4, 0].item(), w[5, 5].item()),
            lambda w: w.split(2)[2].to(torch.bfloat16),
        )
        self.assert_cut(
            (4, 8),
            Cut(1, 2, 4),
            lambda w: copied(w.narrow(1, 2, 4)),
            lambda w: copied(w[:, 2:6].t()),
            lambda w: (copied(w[0:2, 4:6]), copied(w[2:4, 2:4])),
            lambda w: w.view(4, 4, 2)[:, 1:3].contiguous(),
        )

    def test_experts_one_by_one_and_of_one_the_part_that_is_less(self) -> None:
        self.assert_cut((8, 4, 6), Cut(0, 2, 3), lambda w: [copied(w[expert]) for expert in (2, 3, 4)])
        self.assert_cut((4, 8, 6), Cut(1, 2, 2), lambda w: [copied(w[e].narrow(0, 2, 2)) for e in range(4)])
        self.assert_cut((4, 8, 6), Cut(0, 1, 1), lambda w: copied(w[1].narrow(0, 0, 4)))

    def test_what_is_between_two_reads_counts_as_read(self) -> None:
        self.assert_cut(
            (8, 6), Cut(0, 1, 6), lambda w: (copied(w[1]), copied(w[6])), lambda w: copied(w[1:7:5])
        )

    def test_whole_is_what_is_converted_repacked_or_read_by_halves(self) -> None:
        self.assert_cut(
            (8, 6),
            WHOLE,
            lambda w: copied(w.to(torch.bfloat16)[4:6]),
            lambda w: copied(w.t().contiguous()[:, 4:6]),
            lambda w: copied(w.to("meta")[4:6]),
            lambda w: copied(w.t().reshape(-1)[:4]),
            lambda w: (copied(w[0:2]), copied(w[6:8])),
            lambda w: w.mul_(2),
        )

    def test_what_is_never_read_is_kept_by_nobody(self) -> None:
        self.assert_cut(
            (8, 6), NOTHING, lambda w: None, lambda w: w[2:4].t().unsqueeze(0), lambda w: w.chunk(2)[0].data
        )

    def test_a_loader_that_gets_no_row_counts_on_being_asked(self) -> None:
        self.assert_cut(
            (8, 6), WHOLE, lambda w: copied(w.narrow(0, 8, 0)), lambda w: copied(w.narrow(0, 0, 0))
        )

    def test_scalars_and_tensors_without_elements_are_whole(self) -> None:
        self.assert_cut((), WHOLE, lambda w: copied(w.reshape(1)), lambda w: w.item())
        self.assert_cut((), NOTHING, lambda w: w.reshape(1))
        self.assertEqual(cut_of((0, 4), lambda w: None), WHOLE)

    def test_parts_have_whole_words(self) -> None:
        for dtype, columns, expected in (
            (torch.bfloat16, 4, Cut(0, 3, 1)),
            (torch.bfloat16, 6, WHOLE),
            (torch.float8_e4m3fn, 8, Cut(0, 3, 1)),
            (torch.float8_e4m3fn, 4, WHOLE),
            (torch.int64, 1, Cut(0, 3, 1)),
        ):
            with self.subTest(dtype=dtype, columns=columns):
                self.assertEqual(cut_of((8, columns), lambda w: copied(w[3:4]), dtype), expected)
        # Rows that end within a word, of a tensor that does not.
        self.assertEqual(cut_of((8, 3), lambda w: copied(w[:, :2])), WHOLE)
        self.assertEqual(cut_of((3, 3), lambda w: copied(w[:2])), WHOLE)

    def test_it_is_noticed_what_is_handed_to_others_than_torchs_operations(self) -> None:
        self.assertEqual(handed_on(lambda w: (w[1, 1].item(), torch.as_tensor(w), repr(w))), [None] * 2)
        for number, load in enumerate(
            (
                lambda w: w[2:].numpy(),
                lambda w: w.tolist(),
                lambda w: w[1].data_ptr(),
                lambda w: numpy.asarray(w),
                lambda w: numpy.from_dlpack(w),
                lambda w: pickle.dumps(w),
                lambda w: copy.deepcopy(w),
                lambda w: torch.tensor([1.0, w[2, 1]]),
                lambda w: torch.as_tensor([[w[2, 1]], [2.0]]),
                lambda w: torch.zeros(1).new_tensor(data=[w[2, 1]]),
            )
        ):
            with self.subTest(load=number):
                self.assertEqual(handed_on(load), ["a", "a"])

    def test_what_is_innermost_within_it_stays(self) -> None:
        watched = Watched(Tensor("a", "F32", (4, 2), 0), tensor := torch.zeros(4, 2))
        with ReadWatch([watched]) as watch, fake_vllm.CopyCounter() as counter, watch.left():
            torch.zeros(1, 2).copy_(tensor[1:2])
        self.assertEqual((counter.copied, watched.cut()), (2, Cut(0, 1, 1)))

    def test_types_that_torch_packs_are_whole(self) -> None:
        shape = (8, 16)
        data, view = view_of(torch.zeros(64, dtype=torch.uint8), Tensor("a", "F4", shape, 0))
        watched = Watched(Tensor("a", "F4", shape, 0), view)
        self.assertEqual(watched.cut(), NOTHING)
        with ReadWatch([watched]):
            copied(data[:32])
        self.assertEqual(watched.cut(), WHOLE)

    def test_no_view_reads_what_its_cut_does_not_have(self) -> None:
        chance = random.Random(7)
        for _ in range(400):
            shape = tuple(chance.choice((1, 2, 3, 4, 6)) for _ in range(chance.randint(1, 4)))
            steps = [
                (chance.randrange(6), chance.random(), chance.random()) for _ in range(chance.randint(1, 4))
            ]
            numbers = torch.arange(torch.Size(shape).numel()).view(shape)
            read = set(through(numbers, steps).reshape(-1).tolist())
            cut = cut_of(shape, lambda w, steps=steps: through(w, steps).clone(), torch.int64)
            with self.subTest(shape=shape, steps=steps, cut=cut):
                kept = numbers if cut == WHOLE else numbers.narrow(*cut)
                self.assertLessEqual(read, set(kept.reshape(-1).tolist()))
                if cut not in (WHOLE, NOTHING):
                    ends = (
                        numbers.narrow(cut.dim, cut.start, 1),
                        numbers.narrow(cut.dim, cut.start + cut.length - 1, 1),
                    )
                    self.assertTrue(
                        all(read & set(end.reshape(-1).tolist()) for end in ends), "larger than needed"
                    )


def through(tensor: torch.Tensor, steps: Sequence[tuple[int, float, float]]) -> torch.Tensor:
    """Views of views, the same for tensors of one shape."""
    for kind, where, far in steps:
        if tensor.dim() == 0:
            break
        dim = int(where * tensor.dim())
        size = tensor.shape[dim]
        start = int(far * size)
        if kind == 0:
            tensor = tensor.narrow(dim, start, max(1, int(where * (size - start))))
        elif kind == 1:
            tensor = tensor.transpose(dim, int(far * tensor.dim()))
        elif kind == 2:
            tensor = tensor.select(dim, start)
        elif kind == 3 and size % 2 == 0:
            tensor = tensor.unflatten(dim, (2, size // 2))
        elif kind == 4 and tensor.is_contiguous():
            tensor = tensor.reshape(-1)
        elif kind == 5:
            tensor = tensor.unsqueeze(dim).expand(*tensor.shape[:dim], 2, *tensor.shape[dim:])
    return tensor


WEIGHTS = {
    "first.rows0": (7, 4),
    "first.columns1": (3, 8),
    "second.rows0": (6, 2),
    "second.experts0": (4, 2, 2),
    "other.x": (2, 2),
}


def version(value: float) -> dict[str, torch.Tensor]:
    numbers = itertools.count(value)
    return {
        name: torch.tensor([next(numbers) for _ in range(torch.Size(shape).numel())]).view(shape)
        for name, shape in WEIGHTS.items()
    }


def buckets_of(weights: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """Layers end in another bucket than they begin in."""
    names = ("first.rows0", "second.experts0", "other.x"), ("second.rows0", "first.columns1")
    return [{name: weights[name] for name in bucket if name in weights} for bucket in names]


def in_threads(load_weights: Callable[[Any], Any], some: Callable[[str], bool]) -> Callable[[Any], Any]:
    def load(weights: Iterable[tuple[str, torch.Tensor]]) -> Any:
        weights = list(weights)
        names = load_weights([pair for pair in weights if not some(pair[0])])
        with ThreadPoolExecutor(1) as pool:
            return names | pool.submit(load_weights, [pair for pair in weights if some(pair[0])]).result()

    return load


class Worker:
    """One of two, with its rank."""

    def __init__(self, number: int) -> None:
        self.rank = FakeRank()
        self.model = Model(
            first=Split(number, 2, rows0=(7, 4), columns1=(3, 8)),
            second=Split(number, 2, rows0=(6, 2), experts0=(4, 2, 2)),
        )
        self.config = CONFIG

    def send(self, weights: dict[str, torch.Tensor], **options: Any) -> dict[str, Any]:
        return self.rank.send(buckets_of(weights), self.take, **options)

    def send_parts(
        self, weights: dict[str, torch.Tensor], token: str, cuts: dict[str, Cut]
    ) -> dict[str, Any]:
        announced = {name: tensor for name, tensor in weights.items() if cuts[name] != NOTHING}
        parts = {name: cut for name, cut in cuts.items() if cut not in (WHOLE, NOTHING)}
        return self.send(announced, cuts=parts, kept=token)

    def take(self, links: dict[str, str]) -> None:
        target = Target("target", self.model, self.config)
        install_weights(links, [target], vllm_config=None, device=CPU, silence_seconds=60)

    def record(self, weights: dict[str, torch.Tensor]) -> tuple[str, dict[str, Cut]]:
        """An update with whole tensors, and what it says is kept of each."""
        reply = self.send(weights, parts=True)
        token, cuts = kept_of(reply)
        names = [name for bucket in buckets_of(weights) for name in bucket]
        return token, {name: Cut(*cut) for name, cut in zip(names, cuts, strict=True)}

    def parameters(self) -> dict[str, torch.Tensor]:
        return {name: parameter.clone() for name, parameter in self.model.named_parameters()}


class Updates(unittest.TestCase):
    layerwise = True

    def setUp(self) -> None:
        fake_vllm.install(layerwise=self.layerwise)
        self.workers = [Worker(number) for number in range(2)]
        for worker in self.workers:
            self.addCleanup(worker.rank.close)

    def assert_equal(self, held: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
        self.assertEqual(held.keys(), expected.keys())
        for name, tensor in held.items():
            # By their bits: what is padded is no number here.
            self.assertTrue(torch.equal(tensor.view(torch.int32), expected[name].view(torch.int32)), name)

    def test_the_first_update_says_what_is_kept_and_the_next_take_no_more(self) -> None:
        kept = [worker.record(version(1)) for worker in self.workers]
        self.assertEqual(
            [cuts for _, cuts in kept],
            [
                {
                    "first.rows0": Cut(0, 4 * number, 4 - number),
                    "first.columns1": Cut(1, 4 * number, 4),
                    "second.rows0": Cut(0, 3 * number, 3),
                    "second.experts0": Cut(0, 2 * number, 2),
                    "other.x": NOTHING,
                }
                for number in range(2)
            ],
        )
        for value in (100, 200):
            for worker, (token, cuts) in zip(self.workers, kept, strict=True):
                self.assertNotIn("kept", worker.send_parts(version(value), token, cuts))
            by_parts = [worker.parameters() for worker in self.workers]
            for worker in self.workers:
                self.assertNotIn("kept", worker.send(version(value)))
            for worker, held in zip(self.workers, by_parts, strict=True):
                self.assert_equal(held, worker.parameters())

    def test_a_model_that_reads_past_torchs_operations_gets_whole_tensors(self) -> None:
        worker = self.workers[0]
        load_weights = worker.model.load_weights

        def read(weights: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
            for name, tensor in weights:
                tensor.tolist()
                yield name, tensor

        worker.model.load_weights = lambda weights: load_weights(read(weights))
        with self.assertLogs("vllm.weightcast", "WARNING") as logs:
            self.assertNotIn("kept", worker.send(version(1), parts=True))
        self.assertIn("tensor 'first.rows0' is read past torch's operations", "".join(logs.output))
        self.assertNotIn("parts", worker.send(version(100), parts=True) and worker.rank.replies[0])

    def test_a_model_that_loads_in_threads_gets_whole_tensors(self) -> None:
        for some in (lambda name: True, lambda name: name.startswith("second")):
            worker = Worker(0)
            self.addCleanup(worker.rank.close)
            worker.model.load_weights = in_threads(worker.model.load_weights, some)
            if not self.layerwise and not some("first"):
                # Nothing that a raw reload calls is in the thread.
                continue
            with self.assertLogs("vllm.weightcast", "WARNING") as logs:
                self.assertNotIn("kept", worker.send(version(1), parts=True))
            self.assertIn("nobody sees" if self.layerwise else "no read of any tensor", "".join(logs.output))

    def test_layers_are_processed_unwatched(self) -> None:
        worker = self.workers[0]
        modes: list[int] = []
        process = worker.model.first.process
        worker.model.first.process = lambda: (modes.append(torch._C._len_torch_dispatch_stack()), process())
        token, cuts = worker.record(version(1))
        worker.send_parts(version(100), token, cuts)
        self.assertEqual(modes, [0, 0])

    def test_digests_of_parts_add_up_to_those_of_the_tensors(self) -> None:
        names = [name for bucket in buckets_of(version(1)) for name in bucket if name != "other.x"]
        sums = dict.fromkeys(names, 0)
        for worker in self.workers:
            token, cuts = worker.record(version(1))
            reply = worker.send_parts(version(100), token, cuts)
            for name, digest in zip(names, digests_of(reply), strict=True):
                sums[name] = (sums[name] + digest) % (1 << 64)
        weights = version(100)
        del weights["other.x"]
        whole = self.workers[0].send(weights)
        self.assertEqual(sums, dict(zip(names, digests_of(whole), strict=True)))

    def test_some_tensors_may_come_whole_all_the_same(self) -> None:
        worker = self.workers[1]
        token, cuts = worker.record(version(1))
        worker.send_parts(
            version(100), token, {**cuts, "first.rows0": WHOLE, "second.experts0": WHOLE, "other.x": WHOLE}
        )
        by_parts = worker.parameters()
        worker.send(version(100))
        self.assert_equal(by_parts, worker.parameters())

    def test_whole_tensors_may_come_without_those_of_which_nothing_is_kept(self) -> None:
        worker = self.workers[1]
        token, _ = worker.record(version(1))
        weights = version(100)
        del weights["other.x"]
        reply = worker.send(weights, kept=token)
        self.assertEqual(len(digests_of(reply)), len(weights))
        spared = worker.parameters()
        worker.send(version(100))
        self.assert_equal(spared, worker.parameters())

    def test_a_rank_for_which_no_row_is_left_is_sent_the_tensor_all_the_same(self) -> None:
        worker = self.workers[0]
        worker.model = Model(first=Split(3, 4, rows0=(3, 4), columns1=(3, 8)))
        names = ("first.rows0", "first.columns1")
        weights = [{"first.rows0": torch.ones(3, 4)}, {"first.columns1": torch.ones(3, 8)}]
        token, cuts = kept_of(worker.rank.send(weights, worker.take, parts=True))
        self.assertEqual(cuts, [WHOLE, (1, 6, 2)])
        weights = [{name: tensor * 2 for name, tensor in bucket.items()} for bucket in weights]
        worker.rank.send(weights, worker.take, {names[1]: cuts[1]}, kept=token)
        self.assertEqual(worker.model.held(), {names[0]: [[0.0] * 4], names[1]: [[2.0] * 2] * 3})

    def test_who_is_not_asked_says_nothing(self) -> None:
        worker = self.workers[0]
        self.assertEqual(worker.send(version(1)).keys(), {"ok", "report"})
        self.assertEqual(worker.rank.replies[0], {"ok": True, "readsAhead": True})

    def test_who_records_or_takes_parts_says_so_at_once(self) -> None:
        worker = self.workers[0]
        token, cuts = worker.record(version(1))
        self.assertEqual(worker.rank.replies[0], {"ok": True, "readsAhead": True, "parts": True})
        worker.send_parts(version(100), token, cuts)
        self.assertEqual(worker.rank.replies[0], {"ok": True, "readsAhead": True, "parts": True})

    def test_another_model_refuses_a_record_before_anything_is_loaded(self) -> None:
        token, cuts = self.workers[0].record(version(1))
        before = self.workers[1].parameters()
        with self.assertRaises(PartsUnknown):
            self.workers[1].send_parts(version(100), token, cuts)
        self.assertEqual(len(self.workers[1].rank.replies), 1)
        self.assertIn("PartsUnknown: this worker has no record", self.workers[1].rank.replies[0]["error"])
        self.assert_equal(self.workers[1].parameters(), before)

    def test_a_record_is_the_same_when_the_reads_are(self) -> None:
        worker = self.workers[0]
        first = worker.record(version(1))
        self.assertEqual(worker.record(version(100)), first)
        fewer = version(1)
        del fewer["other.x"]
        self.assertNotEqual(worker.record(fewer)[0], first[0])
        # Neither forgets the other.
        worker.send_parts(version(200), *first)

    def test_models_that_take_the_weights_apart_get_them_whole(self) -> None:
        opening = Open(2, "HOST-0", 1, "a@b", b"", 0, False, exchanges=2, parts=True)
        parts = KeptParts(self.workers[0].model)
        with self.assertLogs("vllm.weightcast", "WARNING"):
            self.assertFalse(parts.open(opening))
        self.assertIsNone(parts.kept())
        with self.assertNoLogs("vllm.weightcast", "WARNING"):
            self.assertFalse(KeptParts(self.workers[0].model).open(opening))

    def test_an_update_that_failed_records_nothing(self) -> None:
        worker = self.workers[0]
        weights = version(1)
        weights["second.rows0"] = torch.zeros(6, 3)
        with self.assertRaises(LoadFailed):
            worker.send(weights, parts=True)
        self.assertNotIn("kept", worker.rank.replies[-1])
        worker.record(version(1))

    def fails(
        self,
        worker: Worker,
        token: str,
        cuts: dict[str, Cut],
        words: str,
        left: dict[str, torch.Tensor] | None = None,
    ) -> None:
        """An update by parts fails, and from then on tensors are whole, as is said once. `left`: what it leaves."""
        with self.assertLogs("vllm.weightcast", "WARNING") as logs:
            with self.assertRaisesRegex(PartsChanged, words):
                worker.send_parts(version(100), token, cuts)
            if left is not None:
                self.assert_equal(worker.parameters(), left)
            reply = worker.send(version(200), parts=True)
        self.assertEqual(len([one for one in logs.output if "whole tensors from now on" in one]), 1)
        self.assertNotIn("kept", reply)
        self.assertEqual(worker.rank.replies[0], {"ok": True, "readsAhead": True})
        with self.assertRaises(PartsUnknown):
            worker.send_parts(version(100), token, cuts)

    def test_reads_outside_of_a_part_fail_before_they_are_loaded(self) -> None:
        worker = self.workers[0]
        token, cuts = worker.record(version(1))
        before = worker.parameters()
        worker.model.first.rank = 1
        # What is loaded at once is in the model.
        left = before if self.layerwise else None
        self.fails(
            worker, token, cuts, "reads more of tensor 'first.rows0' than .*: 0 to 3 along dimension 0", left
        )

    def test_parts_that_are_not_read_fail(self) -> None:
        worker = self.workers[0]
        token, cuts = worker.record(version(1))
        load = worker.model.load_weights
        passes_over = [True]

        def load_some(weights: list[tuple[str, torch.Tensor]]) -> None:
            load([pair for pair in weights if not passes_over or pair[0] != "second.experts0"])
            passes_over.clear()

        worker.model.load_weights = load_some
        self.fails(
            worker,
            token,
            cuts,
            "tensor 'second.experts0' it reads nothing now, and read 0 to 1 along dimension 0",
        )

    def test_a_tensor_that_was_passed_over_must_not_be_read_now(self) -> None:
        # Nobody knows what a quantised model must have.
        config = types.SimpleNamespace(**{**vars(CONFIG), "quantization": "fp8"})
        worker = self.workers[0]
        worker.config = config
        load = worker.model.load_weights
        worker.model.load_weights = lambda pairs: load([pair for pair in pairs if pair[0] != "second.rows0"])
        token, cuts = worker.record(version(1))
        self.assertEqual(cuts["second.rows0"], NOTHING)
        worker.model.load_weights = load
        self.fails(worker, token, {**cuts, "second.rows0": WHOLE}, "reads some tensors that it did not read")

    def test_what_nobody_agreed_on_is_refused(self) -> None:
        worker = self.workers[0]
        with self.assertRaisesRegex(ProtocolError, "a part of 'first.rows0', of which nothing was agreed"):
            worker.send(version(1), cuts={"first.rows0": (0, 0, 4)})

    def test_a_part_that_the_tensor_does_not_have_is_refused(self) -> None:
        entry = {"name": "a", "dtype": "F32", "shape": [7, 4], "offset": 0}
        for part in ([2, 0, 1], [0, 5, 3], [0, 0, 0], [0, -1, 1], [0, 1], None):
            request = msgpack.packb({"type": "load", "tensors": [{**entry, "part": part}]})
            with self.assertRaisesRegex(ProtocolError, "of a tensor of shape"):
                decode_request(request)
        worker = self.workers[0]
        token, _ = worker.record(version(1))
        with self.assertRaisesRegex(
            ProtocolError, "0 to 2 along dimension 1 is no part of whole 8-byte words"
        ):
            worker.rank.send([{"a": torch.zeros(7, 4)}], worker.take, {"a": (1, 0, 3)}, kept=token)

    def test_what_waits_for_its_layer_is_not_copied_again(self) -> None:
        if not self.layerwise:
            self.skipTest("nothing waits")
        worker = self.workers[0]
        token, cuts = worker.record(version(1))
        load = worker.model.load_weights
        given: dict[int, str] = {}
        held: list[str | None] = []

        def spy(weights: list[tuple[str, torch.Tensor]]) -> None:
            waiting = [one for info in fake_vllm.INFO.values() for _, one in info.loaded_weights]
            held.extend(given.get(one.arguments["weight"].data_ptr()) for one in waiting)
            given.update((tensor.data_ptr(), name) for name, tensor in weights)
            load(weights)

        worker.model.load_weights = spy
        worker.send_parts(version(100), token, cuts)
        self.assertEqual(held, ["first.rows0", "second.experts0"])


class RawUpdates(Updates):
    """A vLLM without layerwise reload: what is loaded is read at once."""

    layerwise = False

    def setUp(self) -> None:
        super().setUp()
        # It warns of each update.
        handler = logging.NullHandler()
        logging.getLogger("vllm.weightcast").addHandler(handler)
        self.addCleanup(logging.getLogger("vllm.weightcast").removeHandler, handler)


if __name__ == "__main__":
    unittest.main()
