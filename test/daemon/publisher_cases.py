"""Drives weightcast.publisher: `publisher_cases.py '{"case": …, "socket": …}'`."""

import json
import struct
import sys

import weightcast
from client_cases import raises, tensors_of
from weightcast import client as errors


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
    with raises(errors.CheckpointError, "version empty has no tensors"):
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


given = json.loads(sys.argv[1])
globals()[given["case"]](given)
