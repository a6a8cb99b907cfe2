"""A trainer that publishes its weights after every step, to an engine that generates with them.

    python -m weightcast.examples.trainer_loop                                              # a small engine of its own
    python -m weightcast.examples.trainer_loop --endpoint http://127.0.0.1:8000 --model DIR  # a running vLLM

After each update it asks the engine how probable it finds the tokens of a prompt, and compares that with its own model:
the engine has to answer as the new weights, and not as those before. It ends with a JSON of the time that each part took.
For a vLLM, DIR is the model that it serves, which is trained with transformers on random tokens: to no use.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import weightcast
from weightcast.errors import WeightcastError
from weightcast.needed_packages import ending_without

_INSTANCE = "trainer-loop"
#: Natural log-probabilities in BF16 differ by hundredths from those in float32.
_TOLERANCE = 0.2
#: That an engine may take to answer.
_ANSWER_SECONDS = 120.0
#: That the daemon may take to end.
_STOP_SECONDS = 60.0


class AnswerError(WeightcastError):
    """The engine does not answer as the weights that it was given."""


def main() -> None:
    options = _options()
    try:
        with ending_without("trainer_loop"):
            result = run(options)
    except (WeightcastError, OSError) as error:
        sys.exit(f"trainer_loop: {error}")
    text = json.dumps(result, indent=1)
    print(text)
    if options.json is not None:
        with open(options.json, "w") as file:
            file.write(text + "\n")


def run(options: argparse.Namespace) -> dict[str, Any]:
    from .trainers import TinyTrainer, TransformersTrainer

    trainer = TinyTrainer() if options.endpoint is None else TransformersTrainer(options.model)
    with contextlib.ExitStack() as ends:
        if options.endpoint is None:
            endpoint = ends.enter_context(_own_engine())
            publisher = ends.enter_context(_own_daemon())
        else:
            endpoint = options.endpoint
            publisher = ends.enter_context(weightcast.connect(checkpoint=_INSTANCE))
        ends.enter_context(_instance(publisher, endpoint))
        steps = []
        before, answer = trainer.expected(), _ask(endpoint, trainer.prompt)
        for step in range(options.steps):
            times = _Times()
            with times.of("train"):
                loss = trainer.step()
            with times.of("publish"), publisher.version(f"step-{step}") as version:
                version.put_all(trainer.weights())
            with times.of("update"):
                publisher.update(instances=[_INSTANCE])
            with times.of("ask"):
                previous, answer = answer, _ask(endpoint, trainer.prompt)
            expected = trainer.expected()
            _check(step, answer, previous, expected, before)
            before = expected
            steps.append({"step": step, "loss": loss, "error": _apart(answer, expected), **times.seconds})
    parts = ("train", "publish", "update", "ask")
    return {
        "engine": endpoint,
        "bytes": trainer.bytes,
        "seconds": {part: sum(one[part] for one in steps) for part in parts},
        "steps": steps,
    }


def _check(
    step: int, answer: list[float], previous: list[float], expected: list[float], before: list[float]
) -> None:
    error, stale = _apart(answer, expected), _apart(answer, before)
    if error > _TOLERANCE or error >= stale or answer == previous:
        raise AnswerError(
            f"after step {step} the engine is {error:.4f} off the weights that it was given, "
            f"{stale:.4f} off those before"
        )


def _apart(one: list[float], other: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


class _Times:
    """Seconds that the parts of a step took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def of(self, part: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.seconds[part] = round(time.perf_counter() - begun, 6)


@contextlib.contextmanager
def _instance(publisher: Any, endpoint: str) -> Iterator[None]:
    """The engine as an instance of the daemon, which may have others."""
    taken = [rank for one in publisher.client.status().instances for rank in one.ranks]
    publisher.add_instance(_INSTANCE, endpoint, ranks=[max(taken, default=-1) + 1], devices=[0])
    try:
        yield
    finally:
        publisher.client.remove_instance(_INSTANCE)


@contextlib.contextmanager
def _own_daemon() -> Iterator[Any]:
    """A daemon beside the user's: the engine's device is memory of the host, whatever GPUs there are."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        socket, devices = f"{directory}/daemon.sock", f"host:{_INSTANCE}-{os.getpid()}"
        publisher = weightcast.connect(
            socket, checkpoint=_INSTANCE, linger=5.0, serve_options=["--devices", devices]
        )
        try:
            with publisher:
                yield publisher
        finally:
            publisher.client.stop()
            end = time.monotonic() + _STOP_SECONDS
            # It goes last.
            while os.path.exists(socket) and time.monotonic() < end:
                time.sleep(0.05)


@contextlib.contextmanager
def _own_engine() -> Iterator[str]:
    """Starts `engine.py`; it ends with this block, and with this process."""
    words = [sys.executable, "-m", "weightcast.examples.engine", "--port", "0", "--end-with-input"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as engine:
        line = engine.stdout.readline()
        if "http://" not in line:
            raise AnswerError("the engine did not start")
        try:
            yield line.split()[-1]
        finally:
            engine.terminate()


def _ask(endpoint: str, prompt: list[int]) -> list[float]:
    """The log-probabilities of the prompt's tokens but the first, as vLLM answers them."""
    models = _call(f"{endpoint}/v1/models")["data"]
    asked = {
        "model": models[0]["id"],
        "prompt": prompt,
        "max_tokens": 1,
        "temperature": 0,
        "prompt_logprobs": 0,
    }
    entries = _call(f"{endpoint}/v1/completions", asked)["choices"][0]["prompt_logprobs"][1:]
    return [entry[str(token)]["logprob"] for entry, token in zip(entries, prompt[1:], strict=True)]


def _call(url: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        raise AnswerError(
            f"{url} answered {error.code}: {error.read(500).decode(errors='replace')}"
        ) from error


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m weightcast.examples.trainer_loop",
        description="Trains a small model, and publishes each step to an engine.",
    )
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument(
        "--endpoint", help="of a running vLLM of one worker; default: a small engine of its own"
    )
    parser.add_argument("--model", help="with --endpoint: directory of the model that the engine serves")
    parser.add_argument("--json", help="write the result to this file too")
    options = parser.parse_args()
    if (options.endpoint is None) != (options.model is None):
        parser.error("--endpoint and --model belong together")
    if options.steps < 1:
        parser.error("--steps must be at least 1")
    return options


if __name__ == "__main__":
    main()
