"""The worker's end of the ZeroMQ socket between a rank and an engine worker."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import zmq
from zmq.utils.monitor import recv_monitor_message

from .errors import RankLost, RankSilent

# The rank listens before the engine is asked to update: an address where nobody listens is one it has left.
_CONNECT_SECONDS = 5.0
# A message and the news that its sender is gone come by different ways, and may overtake each other.
_LAST_MESSAGE_MILLISECONDS = 50
# How long the last reply may take to leave after the socket is closed.
_LINGER_MILLISECONDS = 1_000
# Plain numbers: to look up and to combine members of Python's enumerations takes as long as what ZeroMQ does with them.
_EVENTS, _POLLIN, _NOBLOCK, _SNDMORE = map(int, (zmq.EVENTS, zmq.POLLIN, zmq.NOBLOCK, zmq.SNDMORE))
# Manifests of 70,000 tensors are 10 MB.
_MAX_MESSAGE_BYTES = 256 << 20


class RankLink:
    """Connected to one rank; its waits all end: at a deadline, or when the rank is gone.

    This ROUTER speaks as a REP socket, but reads ahead: the rank announces buckets before earlier ones are
    answered, and one that takes back all of them (`is_urgent`) should not have to wait until they are loaded.
    """

    def __init__(
        self,
        context: zmq.Context,
        address: str,
        silence_seconds: float,
        is_urgent: Callable[[bytes], bool],
    ) -> None:
        self._address = address
        self._is_urgent = is_urgent
        self._waiting: deque[tuple[list[bytes], bytes]] = deque()
        # What came before the last request, and the rank wants before its answer.
        self._envelope: list[bytes] = [b""]
        self._silence_seconds = silence_seconds
        self._connected = False
        self._vanished = False
        self._socket = context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, _LINGER_MILLISECONDS)
        self._socket.setsockopt(zmq.MAXMSGSIZE, _MAX_MESSAGE_BYTES)
        self._monitor = self._socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        )
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        try:
            self._socket.connect(address)
        except zmq.ZMQError as error:
            self.close()
            raise RankLost(f"{address!r} is no address of a rank: {error}") from error

    def receive(self) -> bytes:
        """The rank's next request. Raises RankLost at once when it is gone, RankSilent at the deadline."""
        self._read_ahead()
        # Asked of the socket itself, which takes a tenth of the time that a poll takes.
        while self._monitor.getsockopt(_EVENTS) & _POLLIN:
            self._notice()
        if self._vanished and self._waiting and not self._is_urgent(self._waiting[0][1]):
            # What a rank that is gone has announced lies in memory that is gone.
            self._waiting.clear()
        started = time.monotonic()
        while not self._waiting and not self._vanished:
            allowed = self._silence_seconds if self._connected else _CONNECT_SECONDS
            left = started + allowed - time.monotonic()
            ready = dict(self._poller.poll(max(0, round(left * 1_000))))
            if self._socket in ready:
                self._read_ahead()
            elif self._monitor in ready:
                self._notice()
            elif not self._connected:
                raise RankLost(f"no rank listens at {self._address}")
            elif left <= 0:
                raise RankSilent(f"the rank at {self._address} was silent for {self._silence_seconds:g} s")
        if not self._waiting and self._socket.poll(_LAST_MESSAGE_MILLISECONDS) != 0:
            self._read_ahead()
        if not self._waiting:
            raise RankLost(f"the rank at {self._address} has vanished")
        self._envelope, frame = self._waiting.popleft()
        return frame

    def wait_longer(self, seconds: float) -> None:
        """From the next `receive` on, if that is longer than it waits now."""
        self._silence_seconds = max(self._silence_seconds, seconds)

    def send(self, frame: bytes) -> None:
        """Answers the last request. To a rank that is gone nothing is sent; the next `receive` tells."""
        for part in self._envelope:
            self._socket.send(part, _SNDMORE)
        self._socket.send(frame)

    def close(self) -> None:
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close()

    def _notice(self) -> None:
        event = recv_monitor_message(self._monitor, zmq.NOBLOCK)["event"]
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._connected = True
        elif event == zmq.EVENT_DISCONNECTED and self._connected:
            self._vanished = True

    def _read_ahead(self) -> None:
        while self._socket.getsockopt(_EVENTS) & _POLLIN:
            frames = self._socket.recv_multipart(_NOBLOCK)
            if b"" not in frames:
                continue
            start = frames.index(b"") + 1
            # A message of this protocol is one frame; what comes in several is handed on joined, and fails to decode.
            envelope, frame = frames[:start], b"".join(frames[start:])
            if self._is_urgent(frame):
                self._waiting.clear()
            self._waiting.append((envelope, frame))
