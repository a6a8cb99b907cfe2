"""A program that has an SGLang in it, as trainers do: `Engine()`, asked over the few routes that a test needs.

Takes the options of `sglang.launch_server`; run with `python -m`, from where this file is on the path.
"""

from __future__ import annotations

import argparse
import dataclasses
import http.server
import json
import threading
from typing import Any

from sglang.srt.entrypoints.engine import Engine
from sglang.srt.server_args import ServerArgs


# Health is asked for while an update runs, and the engine takes one call at a time.
one_call = threading.Lock()


def answer_of(engine: Engine, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    if path == "/generate":
        with one_call:
            return 200, engine.generate(**body)
    if path == "/update_weights_from_ipc":
        with one_call:
            succeeded, message = engine.update_weights_from_ipc(body["zmq_handles"], body["flush_cache"])
        return (200 if succeeded else 400), {"success": succeeded, "message": message}
    return (200, {}) if path in ("/health", "/ping", "/model_info") else (404, {})


def handler_of(engine: Engine) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.answer({})

        def do_POST(self) -> None:
            self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"])) or "{}"))

        def answer(self, body: dict[str, Any]) -> None:
            status, answer = answer_of(engine, self.path.partition("?")[0], body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_values: object) -> None:
            pass

    return Handler


def main() -> None:
    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    values = parser.parse_args()
    options = ServerArgs.from_cli_args(values)
    names = ("model_path", "device", "attention_backend", "sampling_backend", "grammar_backend", "load_format")
    names += ("skip_tokenizer_init", "disable_overlap_schedule", "max_total_tokens", "context_length")
    known = {field.name for field in dataclasses.fields(ServerArgs)}
    engine = Engine(**{name: getattr(options, name) for name in names if name in known})
    http.server.ThreadingHTTPServer(("127.0.0.1", options.port), handler_of(engine)).serve_forever()


if __name__ == "__main__":
    main()
