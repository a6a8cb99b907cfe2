"""What an engine says of itself before it is updated."""

from __future__ import annotations

import http.client
import json
import socket
import time
from typing import Any

from ..client_checks import engine_address
from ..client_errors import DeadlineError

_ANSWER_SECONDS = 30.0
#: Between two looks whether it is healthy.
_PAUSE_SECONDS = 2.0


class EngineProbe:
    def __init__(self, endpoint: str, uds: str | None, api_key: str | None) -> None:
        """`uds`: path of a Unix socket, in place of the endpoint's address."""
        parts = engine_address("--endpoint", endpoint)
        self._parts = parts
        self._prefix = parts.path.rstrip("/") if uds is None else ""
        self._uds = uds
        self._headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        #: As `Client.add_instance` takes it.
        self.endpoint = f"unix:{uds}" if uds is not None else f"{parts.scheme}://{parts.netloc}{self._prefix}"

    def until_healthy(self, seconds: float) -> None:
        """Raises `DeadlineError` if it is not by then."""
        end = time.monotonic() + seconds
        told = False
        while self._status("GET", "/health") != 200:
            if time.monotonic() > end:
                raise DeadlineError(
                    f"engine {self.endpoint} is not healthy after {seconds:g} s (--ready-timeout)"
                )
            if not told:
                print(f"waiting for {self.endpoint} to be healthy", flush=True)
                told = True
            time.sleep(_PAUSE_SECONDS)

    def link(self) -> str:
        """What its workers speak: whether a vLLM has weightcast's worker extension or transfer engine.

        The workers are asked only if their configuration leaves it open: of a question that fails in several of them, vLLM finds
        answers in its next calls.
        """
        is_ours = self._is_configured()
        if is_ours is None:
            question = {"method": "weightcast_protocol", "timeout": _ANSWER_SECONDS}
            is_ours = self._status("POST", "/collective_rpc", question) == 200
        return "weightcast" if is_ours else "checkpoint-engine"

    def _is_configured(self) -> bool | None:
        """As a vLLM says what it was started with (seen with 0.32); None if it does not say, or its extension is neither."""
        status, text = self._answer("GET", "/server_info?config_format=json")
        try:
            config = json.loads(text)["vllm_config"] if status == 200 else {}
            extension = config["parallel_config"]["worker_extension_cls"]
            backend = (config.get("weight_transfer_config") or {}).get("backend")
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        if backend == "weightcast" or extension.startswith("weightcast."):
            return True
        return False if extension == "" or extension.startswith("checkpoint_engine.") else None

    def _status(self, method: str, path: str, body: Any = None) -> int | None:
        """None if there is no answer."""
        return self._answer(method, path, body)[0]

    def _answer(self, method: str, path: str, body: Any = None) -> tuple[int | None, bytes]:
        connection = self._connection()
        try:
            headers = {**self._headers, "content-type": "application/json"}
            connection.request(method, self._prefix + path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            return None, b""
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self._uds is not None:
            return _UnixConnection(self._uds)
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        return kind(str(self._parts.hostname), self._parts.port, timeout=_ANSWER_SECONDS)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_ANSWER_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
