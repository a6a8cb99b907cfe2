"""What `engine.py` serves: one process, one worker, vLLM's routes, weightcast's own worker link.

It shows what an engine of your own needs: `receive_weights` in the worker, and a route that has the worker call it. It
serves `TinyModel`, with random weights until the first update; `prompt` is a list of token numbers.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from http.server import ThreadingHTTPServer
from typing import Any

import torch
import zmq

from ..errors import WeightcastError
from ..json_handler import JsonHandler
from ..messages import PROTOCOL_VERSION
from ..receive import DEFAULT_SILENCE_SECONDS, receive_weights
from .tiny_model import VOCABULARY, TinyModel, prompt_logprobs

_MOST_TOKENS = 1_024


class RequestError(Exception):
    """What is wrong with a request, in one line."""


class Worker:
    """Holds the model. Requests see the old weights or the new ones, never some of both."""

    def __init__(self) -> None:
        self._model = TinyModel().eval()
        self._context = zmq.Context()
        self._updating = threading.Lock()

    def update(self, links: dict[str, str], silence_seconds: float = DEFAULT_SILENCE_SECONDS) -> None:
        """Takes new weights from the rank on this worker's device. `links`: device uuid to address."""
        ((device_uuid, address),) = links.items()
        device = _device_of(device_uuid)
        model = TinyModel().to(device).eval()
        received: dict[str, torch.Tensor] = {}

        def load(weights: Iterable[tuple[str, torch.Tensor]]) -> None:
            # They lie in the rank's memory, which the next bucket overwrites.
            received.update((name, tensor.clone()) for name, tensor in weights)

        with self._updating:
            receive_weights(
                self._context,
                address,
                device=device,
                device_uuid=device_uuid,
                load_weights=load,
                post_hook=lambda: model.load_state_dict(received),
                silence_seconds=silence_seconds,
            )
            self._model = model

    def complete(self, prompt: list[int], most: int) -> tuple[list[int], list[float]]:
        """The tokens that follow, by the greatest probability, and the log-probabilities of the prompt's own."""
        model, tokens = self._model, list(prompt)
        device = model.head.weight.device
        with torch.no_grad():
            logits = model(torch.tensor([tokens], device=device))[0]
            logprobs = prompt_logprobs(logits, tokens)
            for _ in range(most):
                tokens.append(int(logits[-1].argmax()))
                logits = model(torch.tensor([tokens[-2:]], device=device))[0]
        return tokens[len(prompt) :], logprobs


def _device_of(uuid: str) -> torch.device:
    """Host devices are memory of the host; a GPU has the number that torch gives it."""
    if uuid.startswith("HOST-"):
        return torch.device("cpu")
    for index in range(torch.cuda.device_count()):
        if uuid == f"GPU-{torch.cuda.get_device_properties(index).uuid}":
            return torch.device("cuda", index)
    raise RequestError(f"this engine's torch sees no device {uuid}")


class Engine:
    """The routes, by method and path. Each gets the body, and returns the answer's."""

    def __init__(self) -> None:
        self._worker = Worker()
        self._version = "random"
        self.routes: dict[str, Callable[[dict[str, Any]], Any]] = {
            "GET /health": lambda _: {},
            "GET /v1/models": lambda _: {"data": [{"id": "tiny", "owned_by": "weightcast"}]},
            "GET /weight_info": lambda _: {"weight_version": self._version},
            "POST /update_weight_version": self._name_version,
            "POST /collective_rpc": self._collective_rpc,
            "POST /v1/completions": self._complete,
        }

    def _name_version(self, body: dict[str, Any]) -> dict[str, Any]:
        self._version = str(body["new_version"])
        return {}

    def _collective_rpc(self, body: dict[str, Any]) -> dict[str, Any]:
        """What vLLM does with a method of all workers. `results` has what each returned."""
        method = body["method"]
        if method == "weightcast_protocol":
            return {"results": [{"protocol": PROTOCOL_VERSION}]}
        if method != "update_weights_from_weightcast":
            raise RequestError(f"the worker has no method {method}")
        self._worker.update(*body["args"])
        return {"results": [None]}

    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt = body["prompt"]
        most = body.get("max_tokens", 16)
        if not isinstance(prompt, list) or not 1 <= len(prompt) + most <= _MOST_TOKENS:
            raise RequestError(
                f"prompt must be a list of tokens, at most {_MOST_TOKENS} with those that are asked for"
            )
        if not all(isinstance(token, int) and 0 <= token < VOCABULARY for token in prompt):
            raise RequestError(f"tokens are numbers below {VOCABULARY}")
        tokens, logprobs = self._worker.complete(prompt, most)
        choice: dict[str, Any] = {"index": 0, "token_ids": tokens, "text": " ".join(map(str, tokens))}
        if body.get("prompt_logprobs") is not None:
            named = [
                {str(token): {"logprob": logprob}}
                for token, logprob in zip(prompt[1:], logprobs, strict=True)
            ]
            choice["prompt_logprobs"] = [None, *named]
        return {"model": "tiny", "choices": [choice]}


def _handler(engine: Engine) -> type[JsonHandler]:
    class Handler(JsonHandler):
        def _serve(self) -> None:
            route = engine.routes.get(f"{self.command} {self.path.partition('?')[0]}")
            try:
                if route is None:
                    return self.answer(404, {"error": f"no route {self.path}"})
                text = self.read_text()
                self.answer(200, route(json.loads(text or b"{}")))
            except (RequestError, KeyError, ValueError, TypeError) as error:
                self.answer(400, {"error": f"{type(error).__name__}: {error}"})
            except (WeightcastError, RuntimeError) as error:
                self.answer(500, {"error": str(error)})

        do_GET = do_POST = _serve

    return Handler


def serve(port: int) -> None:
    """Until Ctrl-C."""
    server = ThreadingHTTPServer(("127.0.0.1", port), _handler(Engine()))
    server.daemon_threads = True
    print(f"serving tiny at http://127.0.0.1:{server.server_address[1]}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
