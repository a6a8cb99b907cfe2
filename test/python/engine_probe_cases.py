"""What is asked of an engine before it is known what its workers speak: `python engine_probe_cases.py`."""

from __future__ import annotations

import http.server
import json
import threading
import unittest
from typing import Any

from weightcast.compat.engine_probe import EngineProbe

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


if __name__ == "__main__":
    unittest.main()
