"""Stands where weightcast expects an engine: asked to update, it has the caller do it.

An engine of few routes, over HTTP on this host: `GET /health`, and `POST /collective_rpc` with the method of
checkpoint-engine's workers. Whoever asks has to know the key.
"""

from __future__ import annotations

import hmac
import json
import secrets
import threading
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from typing import Any

from ..json_handler import JsonHandler

_METHOD = "update_weights_from_ipc"


class CallerEngine:
    def __init__(self, update: Callable[[dict[str, str]], None]) -> None:
        """`update` gets device uuid to address of the worker link, in the order of the ranks.

        What it raises the daemon is told.
        """
        self.api_key = secrets.token_hex(16)
        self._update = update
        #: Held by an update, which may go on after the daemon has given it up.
        self._updating = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(
            target=self._server.serve_forever, name="weightcast-caller-engine", daemon=True
        ).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def settle(self, seconds: float) -> bool:
        """Waits until no update runs; whether none does."""
        if not self._updating.acquire(timeout=seconds):
            return False
        self._updating.release()
        return True

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _run(self, body: Any) -> tuple[int, str]:
        if body.get("method") != _METHOD:
            return 400, f"the caller has no method {body.get('method')}"
        (links,) = body["args"]
        with self._updating:
            try:
                self._update(links)
            except Exception as error:
                return 500, " ".join(f"{type(error).__name__}: {error}".split())
        return 200, "done"

    def _handler(self) -> type[JsonHandler]:
        engine = self

        class Handler(JsonHandler):
            def do_GET(self) -> None:
                self._say(*((200, "ok") if self.path == "/health" else (404, "no such route")))

            def do_POST(self) -> None:
                text = self.read_text()
                if self.path != "/collective_rpc":
                    return self._say(404, "no such route")
                key = f"Bearer {engine.api_key}"
                if not hmac.compare_digest(self.headers.get("authorization") or "", key):
                    return self._say(401, "this engine needs its key")
                self._say(*engine._run(json.loads(text)))

            def _say(self, status: int, message: str) -> None:
                self.answer(status, {"message": message})

        return Handler
