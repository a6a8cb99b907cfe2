"""Tensors of torch through weightcast.publisher: `publisher_torch_cases.py '{"socket": …, "case": …}'`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from unittest import mock

import numpy
import torch
import weightcast
from weightcast.client_errors import CheckpointError, HostMemoryError, UsageError
from weightcast.publisher_memory import HostMemory
from weightcast.quantize import quantized

MESH = 2


def raises(kind: type, words: str, work) -> None:
    try:
        work()
    except kind as error:
        assert words in str(error) and "\n" not in str(error), error
    else:
        raise AssertionError(f"no {kind.__name__} with: {words}")


def same(publisher, version: str, expected: dict[str, torch.Tensor]) -> None:
    names = set()
    for name, tensor in publisher.receive(version, timeout=20):
        names.add(name)
        other = expected[name]
        assert tensor.dtype == other.dtype and tensor.shape == other.shape, name
        assert torch.equal(tensor.reshape(-1).view(torch.uint8), other.contiguous().reshape(-1).view(torch.uint8)), name
    assert names == set(expected), names ^ set(expected)


class Wrapper(torch.Tensor):
    """As quantised weights of trainers are: it consists of other tensors."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Wrapper:
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise NotImplementedError(func)


def kinds(given: dict) -> None:
    """Every dtype and form of a tensor arrives bit for bit."""
    with weightcast.connect(given["socket"], start=False, checkpoint="kinds") as publisher:
        for version in ("one", "two", "three"):
            with publisher.version(version) as open_version:
                expected = put_kinds(open_version)
            same(publisher, version, expected)
        publisher.client.unregister("kinds")


def put_kinds(version) -> dict[str, torch.Tensor]:
    """Puts one of each, and returns the whole tensors."""
    torch.manual_seed(1)
    matrix = torch.randn(6, 40)
    dtypes = (torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.int64)
    tensors = {str(dtype): matrix.to(dtype) for dtype in dtypes}
    tensors.update(
        bool=matrix > 0,
        odd=torch.arange(3, dtype=torch.uint8),
        after_odd=torch.arange(5, dtype=torch.float64),
        transposed=matrix.t(),
        scalar=torch.tensor(3.5),
        empty=torch.empty(0, 4),
        large=torch.randn(1200, 1200),
        grown=torch.nn.Parameter(torch.randn(4, 4)),
    )
    array = numpy.arange(12, dtype="float32").reshape(3, 4)
    version.put_all(tensors.items())
    version.put("array", array.T)
    for index in range(4):
        version.put("columns", matrix[:, 10 * index : 10 * index + 10], dim=-1, index=index, count=4)
        version.put("flat", bytes_of(matrix, index), dim=1, index=index, count=4)
    return {**tensors, "array": torch.from_numpy(array.T), "columns": matrix, "flat": matrix}


class TorchMemory(HostMemory):
    """A device whose memory torch writes, as that of a GPU is: here it is the host's."""

    def allocate(self, nbytes: int):
        allocation = super().allocate(nbytes)
        return allocation._replace(memory=torch.frombuffer(allocation.memory, dtype=torch.uint8))


def on_device(given: dict) -> None:
    """The same by torch's own copies, into the memory of a device."""
    directory = f"/dev/shm/weightcast-device-{given['device'].removeprefix('HOST-')}"
    os.mkdir(directory)
    memory = TorchMemory(given["device"])
    chosen = mock.patch("weightcast.publisher.device_memory", return_value=memory)
    with chosen, mock.patch("torch.cuda.device", lambda _: nullcontext()):
        with weightcast.connect(given["socket"], start=False, checkpoint="resident", on_device=True) as publisher:
            for version in ("one", "two"):
                with publisher.version(version) as open_version:
                    expected = put_kinds(open_version)
                assert {*publisher._group.layout.places} == {*expected}
                for name, place in publisher._group.layout.places.items():
                    held = open_version.files.memory(place)
                    assert torch.equal(held, expected[name].detach().contiguous().reshape(-1).view(torch.uint8)), name
            wrong = ("F32", [6, 40], bytes(8))
            with publisher.version("wrong") as open_version:
                raises(UsageError, "tensor flat: F32 [6, 40] is 960 bytes, the data has 8", lambda: open_version.put("flat", wrong))
                put_kinds(open_version)
    assert os.listdir(directory) == [], "its memory is given back"
    os.rmdir(directory)


def bytes_of(matrix: torch.Tensor, index: int) -> tuple[str, list[int], bytes]:
    return "F32", [6, 10], matrix[:, 10 * index : 10 * index + 10].contiguous().numpy().tobytes()


def refused(given: dict) -> None:
    """What cannot be taken is refused by name."""
    matrix = torch.randn(256, 128, dtype=torch.bfloat16)
    broken = matrix.clone()
    broken[7, 9] = float("nan")
    with weightcast.connect(given["socket"], start=False, checkpoint="refused") as publisher:

        def put(*arguments, version_options=None, **options):
            with publisher.version("v", **(version_options or {})) as version:
                version.put("w", *arguments, **options)

        raises(CheckpointError, "version v: tensor w has a NaN", lambda: put(broken, refuse_nan=True))
        raises(CheckpointError, "tensor w has a NaN", lambda: put(broken, version_options={"refuse_nan": True}))
        fp8 = broken.to(torch.float8_e4m3fn)
        raises(CheckpointError, "tensor w has a NaN", lambda: put(fp8, refuse_nan=True))
        raw = ("BF16", [256, 128], broken.view(torch.uint8).numpy().tobytes())
        raises(CheckpointError, "tensor w has a NaN", lambda: put(raw, refuse_nan=True))
        raises(UsageError, "tensor w: a shard from 0 to 64 along dimension 0 cuts blocks of 128", lambda: put(
            matrix[:64], dim=0, index=0, count=4, quantize="fp8_block"))
        raises(UsageError, 'tensor w: quantize is "fp4"', lambda: put(matrix, quantize="fp4"))
        raises(UsageError, "tensor w: it is a Wrapper without memory of its own", lambda: put(Wrapper(matrix)))
        raises(UsageError, "tensor w: it is a Wrapper", lambda: publisher.client.register("w", tensors={"w": Wrapper(matrix)}))
        raises(UsageError, "tensor w: it is conjugated", lambda: put(torch.tensor([1 + 2j]).conj()))
        raises(UsageError, "tensor w: it is conjugated or negated", lambda: put(torch._neg_view(torch.ones(2))))
        put(broken)
        infinite = matrix.clone()
        infinite[0, 0] = float("inf")
        put(infinite, refuse_nan=True)
        publisher.client.unregister("refused")
    with weightcast.connect(given["socket"], start=False, checkpoint="quantized") as publisher:
        with publisher.version("v") as version:
            for index in range(2):
                shard = matrix[128 * index : 128 * index + 128]
                version.put("w", shard, dim=0, index=index, count=2, quantize="fp8_block")
        same(publisher, "v", dict(quantized("fp8_block", "w", matrix)))
        publisher.client.unregister("quantized")


def cuda_way(given: dict) -> None:
    """The way of CUDA tensors, with streams that do at once what they are given: pieces, their order, and what is pinned."""

    from weightcast import publisher_cuda
    from weightcast.publisher_files import VersionFiles
    from weightcast.publisher_layout import Layout

    said: list[tuple] = []

    class Stream:
        def __init__(self, name="own"):
            self.name = name

        def wait_event(self, event):
            said.append((self.name, "waits for", event.number))

        def wait_stream(self, other):
            said.append((self.name, "waits for", other.name))

        def synchronize(self):
            said.append((self.name, "synchronize"))

    class Event:
        count = 0

        def __init__(self):
            self.number = Event.count
            Event.count += 1

        def record(self, stream):
            said.append((stream.name, "records", self.number))

    runtime = mock.Mock(**{"cudaHostRegister.return_value": 0})
    current = Stream("current")
    with mock.patch.multiple(
        torch.cuda,
        Stream=lambda device: Stream(),
        Event=Event,
        current_stream=lambda device: current,
        stream=lambda stream: mock.MagicMock(),
        device=lambda device: mock.MagicMock(),
        cudart=lambda: runtime,
    ), mock.patch.object(publisher_cuda, "_BUFFER_BYTES", 16):
        layout = Layout()
        place = layout.place("w", "I32", [10])
        files = VersionFiles(os.path.join(given["scratch"], "version"), 1)
        files.reserve(place)
        files.finish(layout)
        copier = publisher_cuda.CudaCopier()
        copier.pin(files)
        copier.pin(files)
        copier.copy(torch.arange(10, dtype=torch.int32), files.memory(place))
        copier.finish()
        assert bytes(files.memory(place)) == torch.arange(10, dtype=torch.int32).numpy().tobytes()
        piece = lambda event: [("current", "waits for", event), ("own", "waits for", "current"), ("own", "records", event)]
        assert said == [*piece(0), *piece(1), *piece(0), ("own", "synchronize")], said
        copier.close()
        copier.close()
        ((address, _, _), _) = runtime.cudaHostRegister.call_args
        runtime.cudaHostRegister.assert_called_once()
        runtime.cudaHostUnregister.assert_called_once_with(address)
        shard_in_one_piece(layout, files, said)
        files.remove()
        refused_pin(publisher_cuda, layout, os.path.join(given["scratch"], "unpinned"), runtime)


def shard_in_one_piece(layout, files, said: list[tuple]) -> None:
    """A shard of a CUDA tensor that lies in one piece goes through the buffers too, another one does not."""

    from weightcast.publisher_copy import Copier
    from weightcast.publisher_parts import equal_part
    from weightcast.tensor_files import source_of

    class OnGpu:
        """A tensor that says it is on a GPU."""

        device = mock.Mock(type="cuda")

        def __init__(self, tensor):
            self.detach = lambda: tensor

    place = layout.places["w"]
    files.memory(place)[:] = bytes(place.nbytes)
    copier = Copier(1)
    copier.begin(files)
    for given, dim, index, is_in_buffers in (([[1, 2]], 0, 3, True), ([[3]] * 5, 1, 1, False)):
        tensor = torch.tensor(given, dtype=torch.int32)
        shape, part = equal_part(tensor.shape, dim, index, 5 if dim == 0 else 2)
        said.clear()
        copier.copy(OnGpu(tensor), source_of(tensor), files.memory(place), shape, part)
        copier.finish()
        assert any("records" in one for one in said) == is_in_buffers, said
    assert list(files.memory(place).cast("i")) == [0, 3, 0, 3, 0, 3, 1, 3, 0, 3]
    copier.close()


def refused_pin(publisher_cuda, layout, prefix: str, runtime) -> None:
    """Files that could not be pinned are pinned the next time."""
    from weightcast.publisher_files import VersionFiles

    files = VersionFiles(prefix, 2)
    files.reserve(layout.places["w"])
    files.finish(layout)
    copier = publisher_cuda.CudaCopier()
    runtime.cudaHostRegister.return_value = 2
    raises(HostMemoryError, "cannot be pinned (2)", lambda: copier.pin(files))
    runtime.cudaHostRegister.return_value = 0
    runtime.cudaHostRegister.reset_mock()
    copier.pin(files)
    runtime.cudaHostRegister.assert_called_once()
    copier.close()
    files.remove()


def cuda(given: dict) -> None:
    """On a GPU: a tensor may be overwritten as soon as it was put."""
    with weightcast.connect(given["socket"], start=False, checkpoint="cuda") as publisher:
        for step in range(4):
            wanted = {}
            with publisher.version(f"step-{step}") as version:
                for index in range(6):
                    tensor = torch.full((60_000_000,), float(10 * step + index), device="cuda")
                    wanted[f"w{index}"] = tensor.cpu()
                    version.put(f"w{index}", tensor)
                    tensor.fill_(-1.0)
            same(publisher, f"step-{step}", wanted)
        publisher.client.unregister("cuda")


def model() -> torch.nn.Module:
    torch.manual_seed(5)
    # Sizes that do not come out even, and one that leaves the last rank nothing.
    return torch.nn.Sequential(torch.nn.Linear(7, 13), torch.nn.Linear(13, 5), torch.nn.LayerNorm(1))


def fsdp_rank(given: dict) -> None:
    """One rank of a trainer that shards its model by FSDP2 on the CPU."""
    from torch.distributed import destroy_process_group, init_process_group
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Replicate, distribute_tensor

    rank = given["rank"]
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(given["port"]), RANK=str(rank), WORLD_SIZE=str(MESH))
    init_process_group("gloo")
    mesh = init_device_mesh("cpu", (MESH,))
    sharded = fully_shard(model(), mesh=mesh)
    replica = distribute_tensor(torch.arange(6.0), mesh, [Replicate()])
    with weightcast.connect(
        given["socket"], start=False, checkpoint="fsdp", rank=rank, world_size=MESH
    ) as publisher:
        for step in range(3):
            with torch.no_grad():
                for parameter in sharded.parameters():
                    parameter.add_(1.0)
            with publisher.version(f"step-{step}", timeout=100) as version:
                version.put_all(sharded.state_dict().items())
                version.put("replica", replica)
    destroy_process_group()


def fsdp(given: dict) -> None:
    """The shards of an FSDP2 model make the whole model."""
    processes = [
        subprocess.Popen([sys.executable, __file__, json.dumps({**given, "case": "fsdp_rank", "rank": rank})])
        for rank in range(MESH)
    ]
    assert [process.wait(timeout=200) for process in processes] == [0] * MESH
    whole = {name: tensor + 1 + 1 + 1 for name, tensor in model().state_dict().items()}
    with weightcast.connect(given["socket"], start=False) as publisher:
        publisher.checkpoint = "fsdp"
        same(publisher, "step-2", {**whole, "replica": torch.arange(6.0)})
        publisher.client.unregister("fsdp")


given = json.loads(sys.argv[1])
globals()[given["case"]](given)
