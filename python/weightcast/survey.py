"""What a worker holds that nobody has updated, for whoever asks: the baseline of later updates."""

from __future__ import annotations

import zmq

from .errors import RankLost
from .messages import Installed, encode_survey

_ANSWER_SECONDS = 30.0


def send_survey(context: zmq.Context, address: str, device: str, installed: list[Installed]) -> None:
    """Raises RankLost if nobody takes it."""
    socket = context.socket(zmq.REQ)
    try:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(address)
        socket.send(encode_survey(device, installed))
        if socket.poll(round(_ANSWER_SECONDS * 1_000)) == 0:
            raise RankLost(f"nobody at {address} takes what this worker holds")
        socket.recv()
    except zmq.ZMQError as error:
        raise RankLost(f"{address!r} takes nothing: {error}") from error
    finally:
        socket.close()
