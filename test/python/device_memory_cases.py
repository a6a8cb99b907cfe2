"""Versions in the memory of a device, without a daemon: `python device_memory_cases.py`."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import unittest
import unittest.mock
from typing import Any

import numpy
import torch
from weightcast import publisher_device
from weightcast.publisher_layout import Layout
from weightcast.publisher_memory import copy_on_device, device_memory
from weightcast.publisher_parts import equal_part
from weightcast.tensor_files import source_of


class Allocations(unittest.TestCase):
    def setUp(self) -> None:
        device = f"HOST-allocations-{os.getpid()}"
        self.of_device = f"/dev/shm/weightcast-device-{device[len('HOST-') :]}"
        self.directory = tempfile.mkdtemp()
        os.mkdir(self.of_device)
        for path in (self.of_device, self.directory):
            self.addCleanup(shutil.rmtree, path)
        self.files = publisher_device.DeviceFiles(f"{self.directory}/session", 1, device_memory(device))
        self.addCleanup(self.files.close)

    def test_a_tensor_that_needs_memory_of_its_own_has_it_after_a_small_one_was_taken_back(self) -> None:
        with unittest.mock.patch.object(publisher_device, "ALLOCATION_BYTES", 1 << 16):
            layout = Layout(1 << 16, publisher_device.METADATA_BYTES)
            for name, size in (("small", 4), ("large", 1 << 20), ("after", 4)):
                place = layout.place(name, "F32", [size])
                self.files.reserve(place)
                self.assertEqual(self.files.memory(place).nbytes, place.nbytes)
                if name == "small":
                    layout.take_back(name)
        self.assertEqual(len(os.listdir(self.of_device)), 2)


class Copies(unittest.TestCase):
    """Into the memory of a GPU, in whose place that of torch on the CPU stands."""

    def copied(self, tensor: Any) -> bytes:
        source = source_of(tensor)
        shape, part = equal_part(source.shape, None, None, None)
        assert part is not None
        memory = torch.full((source.nbytes,), 255, dtype=torch.uint8)
        with unittest.mock.patch.object(torch.cuda, "device", lambda _device: contextlib.nullcontext()):
            copy_on_device(tensor, source, memory, shape, part)
        return memory.numpy().tobytes()

    def test_every_form_of_a_tensor_arrives(self) -> None:
        matrix = torch.arange(12, dtype=torch.float32).view(3, 4)
        self.assertEqual(self.copied(matrix.t()), matrix.numpy().T.tobytes())
        self.assertEqual(self.copied(matrix[:, 1:3]), matrix[:, 1:3].numpy().tobytes())
        self.assertEqual(self.copied(matrix[0].expand(2, 4)), 2 * matrix[0].numpy().tobytes())
        self.assertEqual(self.copied(torch.tensor([True, False])), b"\1\0")
        self.assertEqual(self.copied(numpy.float32(3).reshape(())), numpy.float32(3).tobytes())
        self.assertEqual(self.copied(("F8_E4M3", [2], b"ab")), b"ab")

    def test_a_tensor_without_elements_has_nothing_to_copy(self) -> None:
        for tensor in (torch.zeros(0, 4), numpy.zeros((0, 4), numpy.float32), ("F32", [0], b"")):
            self.assertEqual(self.copied(tensor), b"")


if __name__ == "__main__":
    unittest.main()
