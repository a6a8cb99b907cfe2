"""FP8 by blocks against arithmetic of its own: `python quantize_cases.py`."""

from __future__ import annotations

import itertools
import math
import struct
import unittest

import numpy
import torch
from weightcast.quantize import Shard, fp8_block, quantized

#: Every finite number of E4M3 that is not negative, by its bits: 1 sign, 4 exponent (bias 7), 3 mantissa.
E4M3 = [
    (bits & 7) / 8 * 2.0**-6 if bits < 8 else (1 + (bits & 7) / 8) * 2.0 ** ((bits >> 3) - 7) for bits in range(127)
]


def nearest(value: float) -> int:
    """The bits of the number of E4M3 that is nearest, the even one of two."""
    sign = 0x80 if math.copysign(1.0, value) < 0 else 0
    size = abs(value)
    best = min(range(127), key=lambda bits: (abs(E4M3[bits] - size), bits & 1))
    return sign | best


def reference(weights: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
    rows, columns = weights.shape
    values = numpy.empty(weights.shape, numpy.uint8)
    scales = numpy.empty((-(-rows // 128), -(-columns // 128)), numpy.float32)
    for i, j in numpy.ndindex(*scales.shape):
        block = weights[128 * i : 128 * i + 128, 128 * j : 128 * j + 128]
        largest = numpy.float32(numpy.abs(block).max())
        scale = numpy.float32(1) if largest == 0 else max(largest / numpy.float32(448), numpy.float32(2.0**-126))
        scales[i, j] = scale
        quotients = numpy.clip(block / scale, numpy.float32(-448), numpy.float32(448))
        values[128 * i : 128 * i + 128, 128 * j : 128 * j + 128] = numpy.vectorize(nearest, otypes=[numpy.uint8])(quotients)
    return values, scales


class Quantised(unittest.TestCase):
    def assert_same(self, weights: torch.Tensor) -> None:
        values, scales = fp8_block(weights)
        expected_values, expected_scales = reference(weights.float().numpy())
        self.assertEqual(values.shape, weights.shape)
        numpy.testing.assert_array_equal(values.view(torch.uint8).numpy(), expected_values)
        numpy.testing.assert_array_equal(scales.numpy().view(numpy.uint32), expected_scales.view(numpy.uint32))

    def test_blocks_at_the_edge_are_smaller(self) -> None:
        torch.manual_seed(1)
        for rows, columns in ((1, 1), (127, 129), (128, 128), (130, 257)):
            self.assert_same(torch.randn(rows, columns).bfloat16())

    def test_every_finite_bf16_is_rounded_to_nearest_ties_to_even(self) -> None:
        bits = [bits for bits in range(1 << 16) if bits & 0x7F80 != 0x7F80]
        every = torch.frombuffer(bytearray(struct.pack(f"<{len(bits)}H", *bits)), dtype=torch.bfloat16)
        # As one matrix, whose blocks have scales of every size; sorted by exponent, so that few values of a block vanish.
        self.assert_same(every.view(-1, 128))

    def test_ties_are_between_two_numbers_of_e4m3(self) -> None:
        halves = [(a + b) / 2 for a, b in itertools.pairwise(E4M3)] + [448.0]
        self.assert_same(torch.tensor([halves, [-half for half in halves]]))

    def test_a_block_of_zeros_has_scale_one(self) -> None:
        values, scales = fp8_block(torch.zeros(200, 10, dtype=torch.bfloat16))
        self.assertEqual(scales.tolist(), [[1.0], [1.0]])
        self.assertFalse(values.float().any())

    def test_the_smallest_numbers_have_no_subnormal_scale(self) -> None:
        weights = torch.full((2, 2), 2.0**-133, dtype=torch.bfloat16)
        self.assertEqual(fp8_block(weights)[1].item(), 2.0**-126)
        self.assert_same(weights)

    def test_experts_are_quantised_one_by_one(self) -> None:
        torch.manual_seed(2)
        experts = torch.randn(3, 130, 140).bfloat16()
        values, scales = fp8_block(experts)
        self.assertEqual(scales.shape, (3, 2, 2))
        for expert in range(3):
            one, scale = fp8_block(experts[expert])
            self.assertTrue(torch.equal(values[expert].view(torch.uint8), one.view(torch.uint8)))
            self.assertTrue(torch.equal(scales[expert], scale))

    def test_what_is_not_contiguous_is_quantised_as_its_copy(self) -> None:
        torch.manual_seed(3)
        weights = torch.randn(300, 200).bfloat16().t()
        for one, other in zip(fp8_block(weights), fp8_block(weights.contiguous())):
            self.assertTrue(torch.equal(one.view(torch.uint8), other.view(torch.uint8)))

    def test_shards_at_blocks_are_parts_of_the_whole(self) -> None:
        torch.manual_seed(4)
        whole = torch.randn(512, 300).bfloat16()
        expected = dict(quantized("fp8_block", "w", whole))
        for index in range(2):
            shard = dict(quantized("fp8_block", "w", whole[256 * index : 256 * index + 256], Shard(0, index, 2)))
            rows = slice(256 * index, 256 * index + 256)
            self.assertTrue(torch.equal(shard["w"].view(torch.uint8), expected["w"].view(torch.uint8)[rows]))
            blocks = slice(2 * index, 2 * index + 2)
            self.assertTrue(torch.equal(shard["w_scale_inv"], expected["w_scale_inv"][blocks]))

    @unittest.skipUnless(torch.cuda.is_available(), "there is no GPU")
    def test_a_gpu_gives_the_bits_of_the_cpu(self) -> None:
        torch.manual_seed(5)
        weights = (torch.randn(1000, 700) * torch.randn(1000, 1).exp2() ** 20).bfloat16()
        for one, other in zip(fp8_block(weights), fp8_block(weights.cuda())):
            self.assertTrue(torch.equal(one.view(torch.uint8), other.cpu().view(torch.uint8)))

    def test_refusals_say_why(self) -> None:
        matrix = torch.ones(100, 128, dtype=torch.bfloat16)
        cases = [
            ("fp4", matrix, None, 'quantize is "fp4"; there is fp8_block'),
            ("fp8_block", matrix, Shard(0, 1, 2), "a shard of 100 along dimension 0 cuts blocks of 128"),
            ("fp8_block", matrix.view(64, 200), Shard(-1, 1, 2), "a shard of 200 along dimension 1"),
            ("fp8_block", torch.ones(128), None, r"its shape is \[128\]"),
            ("fp8_block", torch.ones(2, 2, dtype=torch.int8), None, "it is of torch.int8"),
            ("fp8_block", torch.full((2, 2), math.inf), None, "not finite"),
            ("fp8_block", torch.tensor([[1.0, math.nan]]), None, "not finite"),
        ]
        for scheme, tensor, shard, message in cases:
            with self.assertRaisesRegex(ValueError, message):
                list(quantized(scheme, "w", tensor, shard))

    def test_an_empty_matrix_stays_empty(self) -> None:
        values, scales = fp8_block(torch.empty(0, 5))
        self.assertEqual((tuple(values.shape), tuple(scales.shape)), ((0, 5), (0, 1)))


if __name__ == "__main__":
    unittest.main()
