"""HTTP to a daemon, over a Unix socket or TCP, with nothing but the standard library."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket as sockets
import ssl
import stat
import time
import urllib.parse
import weakref
from typing import Any, Dict, Iterator, Optional, Tuple

from .client_checks import seconds_of
from .client_errors import DaemonError, DeadlineError, NotReadyError, UsageError, error_of

#: Of what clients and daemon say to each other; the daemon refuses clients that are more than one apart.
API_VERSION = 2
#: The daemon sends something on a stream of events every 15 seconds.
_SILENCE_SECONDS = 60.0


def default_socket() -> str:
    """Where a daemon of this user serves unless told otherwise: the rule of `weightcast serve`."""
    chosen, runtime = os.environ.get("WEIGHTCAST_SOCKET"), os.environ.get("XDG_RUNTIME_DIR")
    if chosen:
        return chosen
    if runtime and os.path.isabs(runtime):
        return os.path.join(runtime, "weightcast.sock")
    return f"/tmp/weightcast-{os.getuid()}/weightcast.sock"


class DaemonHttp:
    """Requests to one daemon, each on a connection of its own, so that threads do not share any."""

    def __init__(self, socket: Optional[str], url: Optional[str], token: Optional[str]) -> None:
        if socket is not None and url is not None:
            raise UsageError("give either socket or url")
        parts = _address(url) if url is not None else None
        if token is not None and not re.fullmatch(r"[\x21-\x7e]+", token):
            # It is not repeated: it is a secret.
            raise UsageError("token has characters that no header can carry; it is the content of --token-file, without a line end")
        if socket is not None and "\0" in str(socket):
            raise UsageError(f"socket is {socket!r}, which is no path")
        self._url = parts
        self._socket = None if parts is not None else socket or default_socket()
        self._token = token
        self._where = self._socket or str(url)
        #: The version of the API that the daemon has answered with last; 0 before it has.
        self.daemon_api = 0

    def call(self, method: str, path: str, body: Optional[Dict[str, Any]], seconds: float) -> Dict[str, Any]:
        """The answer; raises what the daemon answers if it is an error."""
        connection = self._connection(seconds)
        try:
            response = self._send(connection, method, path, body)
            if response.getheader("weightcast-api") is None:
                raise self._no_daemon(method, path, response.status)
            text = response.read()
        except sockets.timeout as error:
            raise DeadlineError(
                f"the daemon at {self._where} did not answer {method} {path} within {seconds:g} s"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise NotReadyError(
                f"no daemon answers at {self._where} (weightcast serve): {why}", retry=True
            ) from error
        finally:
            connection.close()
        try:
            return json.loads(text)
        except ValueError:
            raise self._no_daemon(method, path, response.status) from None

    def events(self, path: str, seconds: Optional[float] = None) -> Iterator[Tuple[str, Dict[str, Any]]]:
        """Server-sent events, each with its type. Raises `NotReadyError` if the connection breaks, and `DeadlineError` with
        what is sent after so many seconds."""
        end = None if seconds is None else time.monotonic() + seconds
        connection = self._connection(_SILENCE_SECONDS)
        try:
            response = self._send(connection, "GET", path, None)
            kind, data = "message", ""
            for raw in response:
                if end is not None and time.monotonic() > end:
                    raise DeadlineError(f"the daemon at {self._where} has not ended {path} within {seconds:g} s")
                line = raw.decode().rstrip("\r\n")
                if line.startswith("event: "):
                    kind = line[7:]
                elif line.startswith("data: "):
                    data += line[6:]
                elif line == "" and data:
                    yield kind, json.loads(data)
                    kind, data = "message", ""
        except (OSError, http.client.HTTPException) as error:
            raise NotReadyError(f"the daemon at {self._where} is gone: {error}", retry=True) from error
        finally:
            connection.close()

    def hold(self, path: str, seconds: float) -> "HeldConnection":
        """A connection that stays open until it is closed, or its other side is gone. Raises as `call`."""
        connection = self._connection(seconds)
        try:
            connection.connect()
            return HeldConnection(connection, connection.sock, self._send(connection, "GET", path, None))
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise NotReadyError(f"no daemon answers at {self._where}: {error}", retry=True) from error
        except BaseException:
            connection.close()
            raise

    def _no_daemon(self, method: str, path: str, status: int) -> DaemonError:
        return DaemonError(f"{self._where} answered {status} to {method} {path}; is it a daemon?", status=status)

    def _connection(self, seconds: float) -> http.client.HTTPConnection:
        seconds = seconds_of("timeout", seconds)
        if self._url is None:
            return _SocketConnection(str(self._socket), seconds)
        secure = self._url.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        return kind(str(self._url.hostname), self._url.port, timeout=seconds)

    def _send(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: Optional[Dict[str, Any]]
    ) -> http.client.HTTPResponse:
        """The response, whose body is still to be read."""
        headers = {"weightcast-api": str(API_VERSION)}
        if self._token is not None:
            headers["authorization"] = f"Bearer {self._token}"
        data = None
        if body is not None:
            headers["content-type"] = "application/json"
            try:
                data = json.dumps(body, allow_nan=False).encode()
            except (TypeError, ValueError) as error:
                raise UsageError(f"{method} {path}: {error}") from error
        connection.request(method, path, data, headers)
        response = connection.getresponse()
        said = response.getheader("weightcast-api", "")
        self.daemon_api = int(said) if said.isdecimal() else 0
        if response.status < 400:
            return response
        try:
            error = json.loads(response.read())["error"]
            code, message, retry = error["code"], error["message"], error["retry"]
            instances = error.get("instances") or ()
        except (ValueError, KeyError, TypeError):
            raise self._no_daemon(method, path, response.status) from None
        raise error_of(code, message, retry=retry, status=response.status, instances=instances)


def _address(url: str) -> urllib.parse.SplitResult:
    try:
        parts = urllib.parse.urlsplit(url)
        # The port is parsed when it is asked for, and the name when it is looked up.
        is_origin = (parts.hostname or "").encode("idna") and parts.path in ("", "/") and (parts.port is None or parts.port > 0)
        if is_origin and parts.scheme in ("http", "https") and not (parts.query or parts.fragment):
            return parts
    except (ValueError, AttributeError, TypeError):
        pass
    raise UsageError(f"url is {url!r}; it must be a URL such as http://10.0.0.1:7100")


class HeldConnection:
    """A stream of events of which only the first one is read: it says by its being open that this process lives."""

    def __init__(
        self,
        connection: http.client.HTTPConnection,
        socket: sockets.socket,
        response: http.client.HTTPResponse,
    ) -> None:
        self._connection = connection
        self._socket = socket
        self._response = response
        self.first = _first_event(response)
        _held.add(self)

    @property
    def is_alive(self) -> bool:
        """Whether the daemon is there. Reads what it has sent meanwhile."""
        try:
            self._socket.setblocking(False)
            while self._socket.recv(1 << 16):
                pass
            return False
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            return False

    def close(self) -> None:
        """In this process; in one that it has forked the connection stays open. May be called twice."""
        self._response.close()
        self._connection.close()
        self._socket.close()


_held: "weakref.WeakSet[HeldConnection]" = weakref.WeakSet()


def _close_in_child() -> None:
    """A worker that a trainer has forked does not hold what is the trainer's: it goes with that, also when workers stay."""
    for connection in [*_held]:
        connection.close()


os.register_at_fork(after_in_child=_close_in_child)


def _first_event(response: http.client.HTTPResponse) -> Dict[str, Any]:
    while True:
        line = response.readline().decode()
        if line == "":
            raise http.client.HTTPException("it has closed the connection")
        if line.startswith("data: "):
            return json.loads(line[6:])


class _SocketConnection(http.client.HTTPConnection):
    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        # Whoever made the socket is told our paths and keys.
        found = os.lstat(self._path)
        if not stat.S_ISSOCK(found.st_mode) or found.st_uid not in (os.getuid(), 0):
            raise OSError("it is no socket of this user")
        self.sock = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
