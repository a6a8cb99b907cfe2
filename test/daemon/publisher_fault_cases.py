"""What goes wrong while a version is published: `publisher_fault_cases.py '{"case": …, "socket": …}'`."""

import asyncio
import errno
import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest import mock

import weightcast
from client_cases import raises
from publisher_values import content, floats, shared_files
from weightcast import client as errors
from weightcast import publisher_update
from weightcast.client_errors import HostMemoryError, PeerLostError


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
    with weightcast.connect(given["socket"], start=False, checkpoint="failed-first") as publisher:
        with publisher.version("first") as version:
            version.put("a", floats(1))
            for name in ("w", "never"):
                with raises(errors.UsageError, "the device has failed"):
                    version.put(name, Unreadable())
            # No version was complete: it may have another form.
            version.put("w", floats(1, 2, 3))
        tensors = {name: content(tensor) for name, tensor in publisher.receive("first")}
        assert tensors == {"a": floats(1)[2], "w": floats(1, 2, 3)[2]}, tensors
    publisher.client.unregister("failed-first")


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
            self.send_header("weightcast-api", "1")
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



class Blocking:
    """A daemon whose one update ends when it is cancelled."""

    def __init__(self):
        self.cancelled = threading.Event()
        self.seen = []

    def update(self, *_, **__):
        return self._now("running")

    def events(self, *_, **__):
        self.cancelled.wait(5)
        return iter(())

    def update_status(self, _):
        self.seen.append(self.cancelled.is_set())
        return self._now("succeeded")

    def cancel_update(self, _):
        self.cancelled.set()

    def _now(self, state):
        return errors.Update("u", "c", [], state, "", 0.0, None, None, None)


def cancelled_among_many(_given):
    """An update can be cancelled while all threads of the loop have other work."""
    client = Blocking()

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        other = loop.run_in_executor(None, client.cancelled.wait, 5)
        task = asyncio.ensure_future(publisher_update.update_in_thread(client, "c", None, None, 10, {}))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait([task, other])
        assert task.cancelled() and client.seen in ([], [True]), client.seen

    asyncio.run(main())
    assert client.cancelled.is_set()


def forked_while_open(given):
    """A process that was forked within a version changes nothing of it, however it ends, and publishes nothing itself."""
    with weightcast.connect(given["socket"], start=False, checkpoint="forked-open") as publisher:
        with publisher.version("v") as version:
            version.put("a", floats(1))
            child = os.fork()
            if child == 0:
                _in_child(publisher, version)
            assert os.waitpid(child, 0)[1] == 0
            version.put("b", floats(2))
        tensors = {name: content(tensor) for name, tensor in publisher.receive("v")}
        assert sorted(tensors) == ["a", "b"], tensors
    publisher.client.unregister("forked-open")


def _in_child(publisher, version):
    """Leaves the blocks as an exception does, and not this process."""
    try:
        with raises(errors.UsageError, "which this one was forked", "connect again"):
            version.put("b", floats(3))
        with raises(errors.UsageError, "which this one was forked"):
            publisher.version("w")
        version.__exit__(SystemExit, SystemExit(), None)
        publisher.close()
        os._exit(0)
    finally:
        os._exit(1)


given = json.loads(sys.argv[1])
globals()[given["case"]](given)
