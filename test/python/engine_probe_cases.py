"""What is asked of an engine before it is known what its workers speak: `python engine_probe_cases.py`."""

from __future__ import annotations

import http.server
import json
import socket
import threading
import types
import unittest
from typing import Any

from weightcast.client_errors import EngineError, UsageError
from weightcast.compat.engine_probe import EngineProbe
from weightcast.trainers import ensure_instances

CONFIGURATION = "GET /proxy/server_info?config_format=json"
QUESTION = "POST /proxy/collective_rpc"
THEIRS = "checkpoint_engine.worker.VllmColocateWorkerExtension"


def configured(extension: str, backend: str | None = None) -> dict[str, Any]:
    transfer = None if backend is None else {"backend": backend}
    return {"vllm_config": {"parallel_config": {"worker_extension_cls": extension}, "weight_transfer_config": transfer}}


class Probes(unittest.TestCase):
    def asked(self, configuration: Any, workers_status: int = 500) -> tuple[str, list[str]]:
        """What the probe says of an engine, and what it asked it. `configuration`: None if it does not say."""
        asked: list[str] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer(404 if configuration is None else 200, json.dumps(configuration))

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.answer(workers_status, "{}")

            def answer(self, status: int, text: str) -> None:
                asked.append(f"{self.command} {self.path}")
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_values: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            link = EngineProbe(f"http://127.0.0.1:{server.server_port}/proxy/", None, None).link()
        finally:
            server.shutdown()
            server.server_close()
        return link, asked

    def test_workers_that_are_known_are_not_asked(self) -> None:
        for configuration, link in (
            (configured(THEIRS), "checkpoint-engine"),
            (configured(""), "checkpoint-engine"),
            (configured("", "nccl"), "checkpoint-engine"),
            (configured(THEIRS, "weightcast"), "weightcast"),
            (configured("weightcast.worker.VllmWorkerExtension"), "weightcast"),
        ):
            with self.subTest(configuration):
                self.assertEqual(self.asked(configuration), (link, [CONFIGURATION]))

    def test_workers_of_which_the_engine_does_not_say_enough_are(self) -> None:
        for configuration in (None, [], {"vllm_config": "a text"}, configured("somebody.Extension")):
            with self.subTest(configuration):
                asked = [CONFIGURATION, QUESTION]
                self.assertEqual(self.asked(configuration), ("checkpoint-engine", asked))
                self.assertEqual(self.asked(configuration, 200), ("weightcast", asked))


class Addresses(unittest.TestCase):
    client: Any = types.SimpleNamespace(status=lambda: types.SimpleNamespace(instances=[]))

    def test_what_is_no_address_of_an_engine_is_a_usage_error(self) -> None:
        for endpoint in ("", "x:1", "http://", "http://[::1", "http://x:99999", f"http://{'a' * 64}.x", 3):
            with self.subTest(endpoint):
                with self.assertRaisesRegex(UsageError, "--endpoint is .*; it must be a URL"):
                    EngineProbe(endpoint, None, None)
                for engine in (endpoint, {"endpoint": endpoint}):
                    with self.assertRaisesRegex(UsageError, "endpoint of an engine is .*; it must be a URL"):
                        ensure_instances(self.client, [engine])
        with self.assertRaisesRegex(UsageError, "engines is 'http://x'; give a list"):
            ensure_instances(self.client, "http://x")

    def test_a_server_that_speaks_no_http_is_named(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:

            def greet() -> None:
                with server.accept()[0] as connection:
                    connection.sendall(b"SSH-2.0-OpenSSH_9\r\n")

            threading.Thread(target=greet, daemon=True).start()
            endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
            with self.assertRaisesRegex(EngineError, f"engine {endpoint} does not say how many workers it has"):
                ensure_instances(self.client, [endpoint])

    def test_workers_that_are_counted_already_are_not_asked_for(self) -> None:
        added: list[Any] = []
        client = types.SimpleNamespace(
            status=self.client.status, add_instance=lambda *values, **options: added.append((values, options))
        )
        for count in ({"workers": 2}, {"worker_count": 2}):
            ensure_instances(client, [{"endpoint": "http://127.0.0.1:1/a/", **count}])
            self.assertEqual(added.pop(), (("127.0.0.1:1/a", "http://127.0.0.1:1/a"), {"worker_count": 2}))


if __name__ == "__main__":
    unittest.main()
