"""Drives weightcast.client against a running daemon: `client_cases.py '{"socket": …, "instance": …}'`."""

import array
import glob
import json
import os
import sys
from contextlib import contextmanager

import weightcast
from weightcast import client as module
from weightcast.client import Client, DaemonError, Event


@contextmanager
def raises(kind, *words):
    try:
        yield
    except kind as error:
        text = str(error)
        assert "\n" not in text, text
        for word in words:
            assert word in text, f"{word} is not in: {text}"
    else:
        raise AssertionError(f"no {kind.__name__}")


def tensors_of(directory):
    """(dtype, shape, bytes) by name, as a trainer without numpy and torch would have them."""
    tensors = {}
    for path in sorted(glob.glob(os.path.join(directory, "*.safetensors"))):
        with open(path, "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            data = file.read()
        for name, entry in header.items():
            if name != "__metadata__":
                start, end = entry["data_offsets"]
                tensors[name] = (entry["dtype"], entry["shape"], data[start:end])
    return tensors


class FakeArray:
    """What the client needs of a numpy array."""

    class dtype:
        name = "float32"
        byteorder = "<"

    class flags:
        c_contiguous = True

    def __init__(self, values):
        self._data = array.array("f", values)
        self.__array_interface__ = {}
        self.shape = (len(values),)
        self.size = len(values)
        self.nbytes = 4 * len(values)

    def reshape(self, *_):
        return self

    def view(self, _):
        return memoryview(self._data).cast("B")


def a_step(client, model):
    registered = client.register("tensors", tensors=tensors_of(model))
    from_files = client.register("files", model)
    assert registered.state == from_files.state == "loaded"
    assert registered.digest == from_files.digest, "the same weights, whichever way they come"
    update = client.update("tensors", timeout=100)
    (outcome,) = update.report.instances
    assert (outcome.name, outcome.outcome, outcome.error) == ("a", "updated", None)
    assert outcome.proofs["arrived"] == "holds"
    status = client.status()
    assert status.ready and status.reasons == []
    assert str(status.instance("a").version) == f"tensors@{registered.digest}"
    assert status.instance("b") is None
    return update


def followed(client):
    job = client.update("files", instances=["a"], wait=False)
    assert job.state == "running" and job.report is None
    events = list(client.events(job.id))
    assert all(isinstance(event, Event) for event in events)
    assert events[-1].type == "update" and events[-1].data["state"] == "succeeded", events
    assert client.update_status(job.id).report.checkpoint == "files"


def mistakes(client, given):
    with raises(module.NotFoundError, "no checkpoint none"):
        client.update("none")
    with raises(module.AccessError, "outside the daemon's roots"):
        client.register("x", "/etc/hostname")
    with raises(module.UsageError, "rank 0 is in the cluster already"):
        client.add_instance("b", given["instance"]["endpoint"], [0, 1])
    with raises(module.UsageError, "instance b has workers on host nowhere"):
        client.add_instance("b", given["instance"]["endpoint"], workers=[{"host": "nowhere", "devices": range(2)}])
    with raises(module.UsageError, "workers has 0; give what each host has"):
        client.add_instance("b", given["instance"]["endpoint"], workers=range(2))
    with raises(module.AccessError, "--allow-engine"):
        client.add_instance("b", "http://10.9.9.9:8000", [5])
    with raises(module.UsageError, "one of path, files, tensors and metas"):
        client.register("x")
    with raises(module.UsageError, "tensor w: it is a int"):
        client.register("x", tensors={"w": 3})
    with raises(module.CheckpointError, "w"):
        client.register("x", tensors={"w": ("F32", [3], b"\0" * 8)})
    with raises(module.NotFoundError):
        client.remove_instance("b")
    with raises(module.NotReadyError, "no daemon answers at /nowhere.sock") as error:
        Client(socket="/nowhere.sock").status()
    with raises(module.AccessError, "no token"):
        Client(url=given["url"]).status()
    for url in ("ftp://x", "http://x:99999", "http://[::1", "http://x/path", "x:1", f"http://{'a' * 64}.x", 3):
        with raises(module.UsageError, "it must be a URL"):
            Client(url=url)
    with raises(module.UsageError, "which is no path"):
        Client(socket="/tmp/\0")
    with raises(module.UsageError, "no header can carry"):
        Client(url=given["url"], token="two\r\nlines")
    for timeout in (float("nan"), "5", -1):
        with raises(module.UsageError, "timeout is "):
            client.update("files", timeout=timeout)
    with raises(module.UsageError, "not JSON compliant"):
        client.update("files", memory_fraction=float("nan"))
    with raises(module.UsageError, "name is "):
        client.register("a\nb", tensors={"w": FakeArray([1.0])})
    with raises(DaemonError, "is it a daemon?"):
        Client(url=given["instance"]["endpoint"]).status()
    with raises(module.UsageError, "either socket or url"):
        Client(socket="/x", url="http://y")
    try:
        client.unregister("none")
    except DaemonError as error:
        assert (error.code, error.retry, error.status) == ("WEIGHTCAST_NOT_FOUND", False, 404)


def main(given):
    client = Client(socket=given["socket"])
    with weightcast.connect(url=given["url"], token=given["token"], checkpoint="over-tcp") as publisher:
        with publisher.version("v") as version:
            version.put("w", FakeArray([1.0, 2.0]))
        assert client.checkpoint_files("over-tcp")["version"] == "v"
    client.unregister("over-tcp")
    a_step(client, given["model"])
    followed(client)
    mistakes(client, given)
    assert client.register("array", tensors={"w": FakeArray([1.0, 2.0])}).tensors == 1
    client.unregister("array")
    client.resume("a")
    over_tcp = Client(url=given["url"], token=given["token"])
    assert over_tcp.status().instance("a").state == "serving"
    directory = client._shared_directory
    left = [name for name in os.listdir(directory) if name.endswith(".safetensors")]
    assert len(left) == 1, f"those of replaced, refused and removed checkpoints are gone: {left}"
    client.unregister("tensors")
    assert not [name for name in os.listdir(directory) if name.endswith(".safetensors")]


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
