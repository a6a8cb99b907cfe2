"""Versions in the memory of a device: `publisher_device_cases.py '{"case": …, "socket": …, "device": …}'`."""

import json
import os
import signal
import sys

import weightcast
from client_cases import raises, tensors_of
from publisher_values import eventually, floats
from weightcast import client as errors


def steps(given):
    """Versions that no host memory has, with which an engine is updated whose first rank is on that device."""
    with weightcast.connect(given["socket"], start=False, checkpoint="resident", on_device=given["device"]) as publisher:
        client = publisher.client
        client.add_instance(**given["instance"])
        for model in given["models"]:
            tensors = tensors_of(model)
            with publisher.version(model) as version:
                assert client.checkpoint_files("resident") is None, "the memory is written: nobody may read it"
                version.put_all(tensors.items())
            (outcome,) = publisher.update(timeout=100).report.instances
            assert (outcome.outcome, outcome.proofs["arrived"]) == ("updated", "holds"), outcome
            known = client.checkpoint_files("resident")
            assert (known["state"], known["on_device"], known["version"]) == ("loaded", True, model), known
            assert [os.stat(path).st_size for path in known["files"]] == [1 << 16] * len(known["files"])
            assert client.register("files", model).digest == known["digest"], "the same weights as in the files"
        with raises(errors.UsageError, "memory of a device"):
            next(publisher.receive())
        with raises(errors.UsageError, "resident is in the memory of the device of rank 0, which other clusters cannot read"):
            client.metas("resident")
        with raises(errors.CheckpointError, "version bad: tensor", "is missing"):
            with publisher.version("bad") as version:
                version.put_all([*tensors.items()][1:])
        with publisher.version("again") as version:
            version.put_all(tensors.items())
        assert publisher.update(timeout=100).report.instances[0].outcome == "updated"
    assert client.checkpoint_files("resident") is None, "it has ended with its publisher"
    for on_device, words in (("HOST-/x", "on_device is 'HOST-/x'"), (-1, "on_device is -1")):
        with raises(errors.UsageError, words):
            weightcast.connect(given["socket"], start=False, on_device=on_device)
    with raises(errors.UsageError, "on_device is for a trainer of one rank"):
        weightcast.connect(given["socket"], start=False, on_device=given["device"], world_size=2)
    with weightcast.connect(given["socket"], start=False, on_device="HOST-nowhere-0") as publisher:
        with raises(errors.DaemonError, "version v: device HOST-nowhere-0 has no "):
            with publisher.version("v") as version:
                version.put("w", floats(1))


def trainer_dies(given):
    """It is registered, and its trainer is killed."""
    publisher = weightcast.connect(given["socket"], start=False, checkpoint="mortal", on_device=given["device"])
    publisher.version("last").__enter__()
    publisher._open.put_all(tensors_of(given["model"]).items())
    publisher._open.__exit__(None, None)
    eventually("it is loaded", lambda: publisher.client.checkpoint_files("mortal")["state"] == "loaded")
    os.kill(os.getpid(), signal.SIGKILL)


given = json.loads(sys.argv[1])
globals()[given["case"]](given)
