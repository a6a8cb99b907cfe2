"""Trainers of several ranks: `publisher_rank_cases.py '{"case": …, "socket": …}'`."""

import json
import os
import subprocess
import sys
import threading
from unittest import mock

import weightcast
from client_cases import raises
from publisher_values import content, floats, shared_files
from weightcast import client as errors
from weightcast.client_errors import HostMemoryError


def rank_main(given):
    """One rank of three: each gives a third of `w`, and rank 1 gives `b`. `fault`: what goes wrong."""
    rank, fault = given["rank"], given["fault"]
    with weightcast.connect(given["socket"], start=False, checkpoint="ranks", rank=rank, world_size=3) as publisher:
        for step in range(given["steps"]):
            with publisher.version(f"step-{step}", timeout=60) as version:
                if fault == "dies" and rank == 2 and step == 1:
                    os._exit(9)
                version.put("w", floats(step, 10 * rank), dim=0, index=0 if fault == "twice" and step == 1 else rank, count=3)
                if rank == 1:
                    version.put("b", floats(*[step] * 300))
        if rank > 0 and not fault:
            with raises(errors.UsageError, f"rank {rank} cannot update"):
                publisher.update()


def ranks(given):
    """Ranks in processes of their own write one version; what is wrong is an error in each that waits for it."""

    def run(fault, steps):
        argument = {**given, "case": "rank_main", "fault": fault, "steps": steps}
        processes = [
            subprocess.Popen(
                [sys.executable, "-W", "error", __file__, json.dumps({**argument, "rank": rank})],
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in (2, 1, 0)
        ]
        ends = [process.communicate(timeout=100)[1] for process in processes]
        return [(process.returncode, end.strip().splitlines()[-1:]) for process, end in zip(processes, ends)]

    client = errors.Client(given["socket"])
    ended = run(None, 4)
    assert ended == [(0, [])] * 3, ended
    w = floats(3, 0, 3, 10, 3, 20)
    digest = client.checkpoint_files("ranks")["digest"]
    assert digest == client.register("same", tensors={"w": w, "b": floats(*[3] * 300)}).digest
    for code, (line,) in run("twice", 2):
        assert code == 1 and "version step-1" in line and "tensor w" in line and "both rank" in line, line
    (died, _), *others = run("dies", 2)
    assert died == 9
    for code, (line,) in others:
        assert code == 1 and "PeerLostError" in line and "rank 2 has ended before it had given its share" in line, line
    assert client.checkpoint_files("ranks")["version"] == "step-0", "one that is not complete is never registered"
    client.unregister("ranks")
    client.unregister("same")


def abandoned_by_rank_0(given):
    """A rank that comes to a version which rank 0 has given up is told why, and leaves neither files nor tensors to others."""
    connected = [
        weightcast.connect(given["socket"], start=False, checkpoint="given-up", rank=rank, world_size=2) for rank in (0, 1)
    ]
    first, second = connected

    def files():
        return [name for name in shared_files(first.client) if name.endswith(".safetensors")]

    def late(put=False):
        with raises(errors.CheckpointError, "version v, rank 1: no data"):
            if not put:
                opened = first.version("v")
                opened.put("a", floats(1, 2))
                opened.abandon("no data")
            with second.version("v") as version:
                if put:
                    first._open.abandon("no data")
                version.put("b", floats(3, 4))

    before = files()
    late()
    assert files() == before, "no file is made for a version that has ended"
    first.version("v")
    late(put=True)
    assert files() == before
    for step in range(3):
        opened = first.version("v")
        opened.put("a", floats(1, 2))
        with second.version("v", timeout=60) as other:
            other.put("b", floats(*range(7)))
            completing = threading.Thread(target=opened.__exit__, args=(None, None))
            completing.start()
        completing.join()
    received = {name: content(tensor) for name, tensor in first.receive(timeout=10)}
    assert received == {"a": floats(1, 2)[2], "b": floats(*range(7))[2]}, received
    late()
    assert len(files()) == len(before) + 1, files()
    for publisher in connected:
        publisher.close()
    first.client.unregister("given-up")


def not_begun(given):
    """A version that one rank cannot begin is given up by all of them at once; ranks that never come are not waited for long."""

    def connect(rank, timeout=60.0):
        return weightcast.connect(
            given["socket"], start=False, checkpoint="not-begun", rank=rank, world_size=2, timeout=timeout
        )

    # As verl's workers have it, each a Ray actor of its own on one host.
    with mock.patch.dict(os.environ, {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}):
        connect(0, timeout=0.1).close()
    full = HostMemoryError("memory is full")
    first = connect(0, timeout=0.1)
    with raises(errors.DeadlineError, "version alone: rank 1 has not connected in time"):
        with first.version("alone") as version:
            version.put("w", floats(1))
    second = connect(1)
    with raises(errors.DaemonError, "version alone: rank 1 has not connected"):
        second.version("alone")
    for failing_in in ("copier", "take"):
        broken = {"copier": (first._copier, "begin"), "take": (first._group.buffers, "take")}[failing_in]
        with raises(HostMemoryError, "memory is full"), mock.patch.object(*broken, side_effect=full):
            first.version("v")
        with raises(HostMemoryError, "version v: memory is full"):
            second.version("v")
    with raises(errors.DeadlineError, "rank 0 has not begun its version 4 in time"):
        second.version("v", timeout=0.0)
    with raises(errors.CheckpointError, "version v: rank 1 has abandoned it: ", "rank 0 has not begun"):
        with first.version("v") as version:
            version.put("w", floats(1))
    for publisher in (first, second):
        publisher.close()


given = json.loads(sys.argv[1])
globals()[given["case"]](given)
