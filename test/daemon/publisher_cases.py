"""Drives weightcast.publisher: `publisher_cases.py '{"case": …, "socket": …}'`."""

import asyncio
import json
import os
import signal
import sys

import weightcast
from client_cases import raises, tensors_of
from publisher_values import content, eventually, floats, shared_files
from weightcast import client as errors


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


def two_trainers(given):
    """Two that publish by one name would update engines to each other's weights: the second one is refused, until the first has
    ended."""
    mine = weightcast.connect(given["socket"], start=False, checkpoint="shared")
    theirs = weightcast.connect(given["socket"], start=False, checkpoint="shared")

    def publish(publisher, name):
        with publisher.version(name) as version:
            version.put_all({"w": floats(1, 2)})

    publish(mine, "mine")
    with raises(errors.UsageError, "version theirs: checkpoint shared is published by another trainer"):
        publish(theirs, "theirs")
    publish(mine, "mine again")
    assert mine.client.checkpoint_files("shared")["version"] == "mine again"
    mine.close()
    eventually("the first one has ended", lambda: retried(theirs, publish))
    assert theirs.client.checkpoint_files("shared")["version"] == "theirs"
    theirs.close()
    mine.client.unregister("shared")


def retried(publisher, publish):
    try:
        publish(publisher, "theirs")
        return True
    except errors.UsageError:
        return False


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
    for tensor, words in (
        (("F32", [-1], b""), "its shape has -1"),
        (("F32", [1.5], bytes(4)), "cannot be interpreted as an integer"),
        (("F32", [1]), "a tuple is (dtype, shape, bytes)"),
        (("F32", [1 << 40, 1 << 40], b""), "no file is that long"),
    ):
        with raises(errors.DaemonError, "version v: ", words):
            publish(("w", tensor))
    for pairs, words in (([("w",)], "got a tuple"), (["w"], "got a str"), (3, "not a int")):
        with raises(errors.UsageError, "put_all takes pairs of name and tensor", words):
            with publisher.version("v") as version:
                version.put_all(pairs)
    for name, words in (("", "1 to 256"), ("..", "1 to 256"), ("n" * 257, "1 to 256"), (3, "is 3"), ("a\nb", "'\\n'"), ("a\ud800", "ud800")):
        with raises(errors.UsageError, "version is ", words):
            publisher.version(name)
    for timeout in (float("nan"), float("inf"), -1, "5", None):
        for wrong in (lambda: publisher.version("v", timeout=timeout), lambda: next(publisher.receive("v", timeout))):
            with raises(errors.UsageError, "timeout is ", "a number of seconds"):
                wrong()
    for wrong in (dict(rank="0"), dict(world_size=0), dict(copy_threads=0), dict(linger=-1), dict(checkpoint="a\tb"), dict(timeout="x")):
        with raises(errors.UsageError, next(iter(wrong))):
            weightcast.connect(given["socket"], start=False, **wrong)
    os.environ["WEIGHTCAST_COMMAND"] = "/none/weightcast"
    with raises(errors.UsageError, "none can be started there", "give another socket"):
        weightcast.connect("/proc/none/daemon.sock")
    with raises(errors.NotReadyError, "/none/weightcast cannot be started"):
        weightcast.connect(f"{given['socket']}.other")
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
