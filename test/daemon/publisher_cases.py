"""Drives weightcast.publisher: `publisher_cases.py '{"case": …, "socket": …}'`."""

import asyncio
import errno
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest import mock

import weightcast
from client_cases import raises, tensors_of
from weightcast import client as errors
from weightcast import publisher_update
from weightcast.client_errors import HostMemoryError, PeerLostError


def floats(*values):
    return ("F32", [len(values)], struct.pack(f"<{len(values)}f", *values))


def steps(given):
    """Versions of whole tensors, each of which an engine is updated to."""
    with weightcast.connect(given["socket"], start=False) as publisher:
        publisher.add_instance(**given["instance"])
        with raises(errors.UsageError, "no version is complete"):
            publisher.update()
        digests = []
        for model in given["models"]:
            with publisher.version(model) as version:
                version.put_all(tensors_of(model).items())
            (outcome,) = publisher.update(timeout=100).report.instances
            assert (outcome.outcome, outcome.proofs["arrived"]) == ("updated", "holds"), outcome
            digests.append(publisher.client.status().instance("a").version.digest)
        for model, digest in zip(given["models"], digests):
            assert publisher.client.register("files", model).digest == digest, "the same weights as in the files"


def mistakes(given):
    """What is refused names the version and the tensor; a version that was abandoned is none."""
    publisher = weightcast.connect(given["socket"], start=False, checkpoint="mistakes")
    w = floats(1, 2)

    def publish(*puts, name="v"):
        with publisher.version(name) as version:
            for put in puts:
                version.put(*put[:2], **(put[2] if len(put) > 2 else {}))

    half = dict(dim=0, count=2)
    with raises(errors.CheckpointError, "version v: tensor w is incomplete: 2 of its 4"):
        publish(("w", w, {**half, "index": 1}))
    with raises(errors.CheckpointError, "tensor w", "rank 0 twice"):
        publish(("w", w, {**half, "index": 1}), ("w", w, {**half, "index": 1}))
    with raises(errors.CheckpointError, "version empty: it has no tensors"):
        publish(name="empty")
    with raises(errors.UsageError, "tensor w: index is 2, and count 2"):
        publish(("w", w, {**half, "index": 2}))
    with raises(errors.UsageError, "tensor w: it is a int"):
        publish(("w", 3))
    with raises(errors.UsageError, "tensor w: F32 [3] is 12 bytes, the data has 8"):
        publish(("w", ("F32", [3], bytes(8))))
    with raises(ValueError, "the trainer's own"):
        with publisher.version("own"):
            raise ValueError("the trainer's own")
    publish(("w", w), ("b", w))
    with raises(errors.CheckpointError, "version v: tensor b is missing"):
        publish(("w", w))
    with raises(errors.CheckpointError, "tensor w is F32 [3], and was F32 [2] before"):
        publish(("w", floats(1, 2, 3)), ("b", w))
    with raises(errors.CheckpointError, "tensor c was in no version before"):
        publish(("c", w))
    with publisher.version("open") as version:
        with raises(errors.UsageError, "version open is not completed yet"):
            publisher.version("other")
        version.put_all([("w", w), ("b", w)])
    publisher.close()
    publisher.client.unregister("mistakes")


@contextmanager
def failing(publisher, error, after=False):
    """Registrations end with that error, `after` the daemon has taken them or before."""
    register = publisher.client.register

    def refused(*arguments, **options):
        if after:
            register(*arguments, **options)
        raise error

    with mock.patch.object(publisher.client, "register", refused):
        yield


def refused_first(given):
    """A first version that the daemon does not take leaves nothing to the next one, which may have other tensors."""
    with weightcast.connect(given["socket"], start=False, checkpoint="refused-first") as publisher:
        with raises(errors.NotReadyError, "not yet"), failing(publisher, errors.NotReadyError("not yet")):
            with publisher.version("one") as version:
                version.put("a", floats(1, 2))
                version.put("b", floats(3, 4))
        with publisher.version("two") as version:
            version.put("b", floats(*range(9)))
            version.put("a", floats(7))
        received = {name: content(tensor) for name, tensor in publisher.receive("two")}
        assert received == {"b": floats(*range(9))[2], "a": floats(7)[2]}, received
    publisher.client.unregister("refused-first")


def unknown_outcome(given):
    """Of a registration that was interrupted nobody knows how it has ended: its files are not written while they may be
    registered, and go once others are."""
    checkpoint = "unknown-outcome"
    with weightcast.connect(given["socket"], start=False, checkpoint=checkpoint) as publisher:

        def publish(step):
            with publisher.version(str(step)) as version:
                version.put("w", floats(step, step))

        def registered():
            ((_, tensor),) = publisher.receive(timeout=10)
            return content(tensor)

        publish(0)
        publish(1)
        for error, kind in ((KeyboardInterrupt("stop"), KeyboardInterrupt), (PeerLostError("it died"), PeerLostError)):
            with raises(kind), failing(publisher, error, after=True):
                publish(2)
            for step in (3, 4):
                writing = publisher.version(str(step))
                writing.put("w", floats(step, step))
                assert registered() == floats(2, 2)[2], "what the daemon has is not written"
                writing.abandon()
            publish(5)
            assert registered() == floats(5, 5)[2]
            publish(6)
            publish(7)
            ours = [name for name in shared_files(publisher.client) if f"-{publisher._group.buffers.session}-" in name]
            assert len(ours) == 2, ours
    publisher.client.unregister(checkpoint)


class Unreadable:
    """A tensor whose bytes cannot be had, as those of a GPU that fails."""

    class dtype:
        name = "float32"
        byteorder = "<"

    __array_interface__ = {}
    shape, size, nbytes = (2,), 2, 8

    @property
    def flags(self):
        raise RuntimeError("the device has failed")


def failed_put(given):
    """A tensor that could not be copied is not given: it is missing, until it is given once more."""
    with weightcast.connect(given["socket"], start=False, checkpoint="failed-put") as publisher:
        for step in range(3):
            with publisher.version(str(step)) as version:
                version.put("w", floats(step, step))
        with raises(errors.CheckpointError, "version bad: tensor w is missing"):
            with publisher.version("bad") as version:
                with raises(errors.UsageError, "tensor w: the device has failed"):
                    version.put("w", Unreadable())
        with publisher.version("good") as version:
            with raises(errors.UsageError, "tensor w: the device has failed"):
                version.put("w", Unreadable())
            version.put("w", floats(8, 9))
        ((_, tensor),) = publisher.receive("good")
        assert content(tensor) == floats(8, 9)[2]
        del tensor
    publisher.client.unregister("failed-put")


def received_and_forked(given):
    """A process that was forked while something was received keeps no lock; a directory cannot be received."""
    with weightcast.connect(given["socket"], start=False, checkpoint="forked") as publisher:
        with publisher.version("0") as version:
            version.put("w", floats(0))
        receiving = publisher.receive("0")
        next(receiving)
        going, gone = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(gone)
            os.read(going, 1)
            os._exit(0)
        os.close(going)
        receiving.close()
        for step in range(1, 5):
            with publisher.version(str(step)) as version:
                version.put("w", floats(step))
        ours = [name for name in shared_files(publisher.client) if f"-{publisher._group.buffers.session}-" in name]
        os.close(gone)
        os.waitpid(child, 0)
        assert len(ours) == 2, ours
        publisher.client.register("forked", given["models"][0])
        with raises(errors.UsageError, given["models"][0], "is a directory"):
            next(publisher.receive())
    publisher.client.unregister("forked")


def no_raw_errors(given):
    """What the system refuses is an error of the publisher, in one line."""
    with weightcast.connect(given["socket"], start=False, checkpoint="raw") as publisher:

        def publish():
            with publisher.version("v") as version:
                version.put("w", floats(1))

        for kind, error, place in (
            (HostMemoryError, OSError(errno.EMFILE, "Too many open files"), "os.open"),
            (errors.NotReadyError, FileNotFoundError(errno.ENOENT, "No such file"), "os.open"),
            (HostMemoryError, OSError(errno.ENOMEM, "Cannot allocate memory"), "mmap.mmap"),
        ):
            with raises(kind, "version v: ", ".safetensors"), mock.patch(f"weightcast.publisher_files.{place}", side_effect=error):
                publish()


def silent_daemon(given):
    """Of a daemon that only says that it is there, an update is waited for until its deadline; what fails while an update is
    cancelled does not hide that it was."""
    running = dict(id="u", checkpoint="c", state="running", instances=[], started_at="", seconds=0.0)
    running.update(progress=None, report=None, error=None)

    class Silent(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            if self.path.endswith("/events"):
                try:
                    while True:
                        self.wfile.write(b": here\n\n")
                        time.sleep(0.02)
                except OSError:
                    return
            self.wfile.write(json.dumps(running).encode())

        do_POST = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    client = errors.Client(url=f"http://127.0.0.1:{server.server_port}")
    with mock.patch.object(publisher_update, "_CLEANUP_SECONDS", 0.5):
        with raises(errors.DeadlineError, "the daemon has not ended update u"):
            publisher_update.followed_update(client, "c", print, None, 0.1, {})

        async def cancel():
            task = asyncio.ensure_future(publisher_update.update_in_thread(client, "c", None, None, 0.1, {}))
            with mock.patch.object(client, "cancel_update", side_effect=errors.NotReadyError("gone")):
                await asyncio.sleep(0.05)
                task.cancel()
                await asyncio.wait([task])
            assert task.cancelled(), task

        asyncio.run(cancel())
    server.shutdown()
    server.server_close()


def started(given):
    """A daemon that is started for the publisher, and ends after it."""
    with raises(errors.NotReadyError, "no daemon answers"):
        weightcast.connect(given["socket"], start=False)
    publisher = weightcast.connect(given["socket"], linger=0.5, serve_options=given["serve_options"])
    with publisher.version("one") as version:
        version.put("w", floats(1))
    pid = publisher.client._call("GET", "/v1/status")["daemon"]["pid"]
    publisher.close()
    print(pid)


def eventually(what, is_so):
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def content(tensor):
    """The bytes of what was received: a tensor of torch where there is torch."""
    if isinstance(tensor, tuple):
        return bytes(tensor[2])
    import torch

    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def shared_files(client):
    directory = client._call("GET", "/v1/status")["daemon"]["shared_directory"]
    return {name: os.stat(os.path.join(directory, name)) for name in os.listdir(directory) if name not in ("lock", "versions.json")}


def reused(given):
    """The memory of a version is that of the one before the last: no file is made after the second."""
    model = tensors_of(given["models"][0])
    names = sorted(model)
    with weightcast.connect(given["socket"], start=False) as publisher:
        seen = []
        for step in range(6):
            with publisher.version(f"step-{step}", refuse_nan=False) as version:
                for name in names:
                    dtype, shape, data = model[name]
                    version.put(name, (dtype, shape, bytes(data[step:]) + bytes(data[:step])))
            (outcome,) = publisher.update(timeout=100).report.instances
            assert (outcome.outcome, outcome.proofs["arrived"]) == ("updated", "holds"), outcome
            seen.append({name: file.st_ino for name, file in shared_files(publisher.client).items()})
        assert seen[1] == seen[-1] and len(seen[1]) == 2, seen
        with publisher.version("given-up") as version:
            version.put(names[0], model[names[0]])
            version.abandon()
        assert seen[1] == {name: file.st_ino for name, file in shared_files(publisher.client).items()}
        with publisher.version("after") as version:
            version.put_all(model.items())
        registered = publisher.client.checkpoint_files("policy")
        assert registered["version"] == "after"
        assert publisher.client.register("files", given["models"][0]).digest == registered["digest"]
        received = {name: content(tensor) for name, tensor in publisher.receive("after")}
        assert received == {name: data for name, (_, _, data) in model.items()}
        with raises(errors.DeadlineError, "version never is not there; the daemon has after"):
            list(publisher.receive("never", timeout=0.1))
    kept = [os.path.basename(path) for path in registered["files"]]
    eventually("what is registered stays, the rest goes", lambda: [*shared_files(publisher.client)] == kept)
    publisher.client.unregister("policy")
    assert not shared_files(publisher.client)


def receiver_keeps(given):
    """What somebody receives is not written meanwhile."""
    with weightcast.connect(given["socket"], start=False, checkpoint="kept") as publisher:
        for step in range(5):
            with publisher.version(f"{step}") as version:
                version.put("w", floats(step, step))
            if step == 1:
                receiving = publisher.receive("1")
                name, tensor = next(receiving)
        assert (name, content(tensor)) == ("w", floats(1, 1)[2])
        assert len(shared_files(publisher.client)) == 3
        del tensor
        assert list(receiving) == []
    publisher.client.unregister("kept")


def trainer_dies(given):
    """What a trainer had not completed goes with it, what it had completed stays."""
    publisher = weightcast.connect(given["socket"], start=False, checkpoint="orphan")
    publisher.version("complete").__enter__()
    publisher._open.put("w", floats(1, 2))
    publisher._open.__exit__(None, None)
    publisher.version("partial").__enter__().put("w", floats(3, 4))
    assert len(shared_files(publisher.client)) == 2
    if os.fork() == 0:
        # A worker of the trainer that outlives it: what it has open of the trainer's keeps nothing.
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        os.dup2(1, 2)
        eventually("the trainer's memory is gone", lambda: len(shared_files(errors.Client(given["socket"]))) == 1)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)


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


def daemon_dies(given):
    """What was complete when the daemon was killed is there with the next one; the publisher goes on."""
    publisher = weightcast.connect(given["socket"], serve_options=given["serve_options"])

    def pid():
        return publisher.client._call("GET", "/v1/status")["daemon"]["pid"]

    with publisher.version("one") as version:
        version.put("w", floats(1, 2))
    killed = pid()
    partial = publisher.version("partial")
    partial.put("w", floats(9, 9))
    os.kill(killed, signal.SIGKILL)
    with raises(errors.NotReadyError, "version partial"):
        partial.__exit__(None, None)
    with publisher.version("two") as version:
        assert pid() != killed
        ((name, tensor),) = publisher.receive(timeout=1)
        assert (name, content(tensor)) == ("w", floats(1, 2)[2]), "the one that was complete was adopted"
        assert publisher.client.checkpoint_files("policy")["version"] == "one"
        version.put("w", floats(3, 4))
    assert publisher.client.checkpoint_files("policy")["version"] == "two"
    assert len(shared_files(publisher.client)) == 1
    directory = publisher.client._call("GET", "/v1/status")["daemon"]["shared_directory"]
    publisher.client.stop()
    eventually("a daemon that is stopped leaves nothing", lambda: not os.path.exists(directory))
    publisher.close()
    with weightcast.connect(given["socket"], linger=0.1, serve_options=given["serve_options"]) as other:
        with raises(errors.UsageError, "no version is complete yet"):
            other.update()


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


def cancelled(given):
    """Cancelling the task of an update cancels the update; progress is told meanwhile."""
    model = tensors_of(given["models"][0])
    publisher = weightcast.connect(given["socket"], start=False)
    with publisher.version("one") as version:
        version.put_all(model.items())
    done = []

    def publish(name):
        with publisher.version(name) as version:
            version.put_all((name, (dtype, shape, bytes(len(data)))) for name, (dtype, shape, data) in model.items())

    async def main():
        update = await publisher.update_async(progress=done.append, timeout=100)
        assert update.state == "succeeded"
        for pid in given["workers"]:
            os.kill(pid, signal.SIGSTOP)
        publish("two")
        task = asyncio.ensure_future(publisher.update_async(timeout=100))
        while not publisher.client.status().updates:
            await asyncio.sleep(0.01)
        (running,) = publisher.client.status().updates
        publishing = asyncio.get_running_loop().run_in_executor(None, publish, "three")
        await asyncio.sleep(0.3)
        assert not publishing.done(), "the version that an update reads is not replaced"
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            pass
        else:
            raise AssertionError("the task was cancelled")
        ended = publisher.client.update_status(running.id)
        assert (ended.state, ended.error.code) == ("failed", "WEIGHTCAST_ABORTED"), ended
        await publishing
        assert publisher.client.checkpoint_files("policy")["version"] == "three"
        for pid in given["workers"]:
            os.kill(pid, signal.SIGCONT)

    asyncio.run(main())
    publisher.close()


def words(given):
    """A word, or a number, where a list belongs."""
    client = errors.Client(given["socket"])
    for call in (
        lambda: client.register("x", files="/x"),
        lambda: client.register("x", "/x", hosts="h"),
        lambda: client.update("x", instances="h"),
        lambda: client.add_instance("x", "http://127.0.0.1:1", ranks=2),
        lambda: client.add_instance("x", "http://127.0.0.1:1", [1], devices="0"),
    ):
        with raises(errors.UsageError, "give a list, such as ["):
            call()
    with raises(errors.UsageError, "3 is no path"):
        client.register("x", files=[3])
    with raises(errors.UsageError, "POST /v1/instances", "not JSON serializable"):
        client.add_instance("x", "http://127.0.0.1:1", [object()])


given = json.loads(sys.argv[1])
globals()[given["case"]](given)
