"""What an engine is started with, so that its workers take new weights from weightcast.

vLLM, as worker extension (and with `VLLM_SERVER_DEV_MODE=1` in its environment):

    vllm serve … --worker-extension-cls weightcast.worker.VllmWorkerExtension

SGLang, whose workers look for checkpoint-engine's function of the same name:

    python -m weightcast.sglang …
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

import torch
import zmq

from .errors import WeightcastError
from .receive import DEFAULT_SILENCE_SECONDS, LoadWeights, receive_weights


class VllmWorkerExtension:
    """vLLM mixes this class into its worker class, so it has no state and no more names than it must."""

    # What vLLM's worker has.
    device: torch.device
    model_runner: Any
    model_config: Any
    vllm_config: Any

    def update_weights_from_weightcast(
        self, links: dict[str, str], silence_seconds: float = DEFAULT_SILENCE_SECONDS
    ) -> dict[str, Any]:
        """Called on every worker through `POST /collective_rpc`.

        `links`: device uuid to the address of the worker link on that device. All weights go to the target model
        and, if the engine speculates with one, to the draft model; each takes those it has. What `receive_weights`
        says of digests and errors holds here. Returns epoch, version and number of tensors.
        """
        device = self.device
        uuid = _uuid_of_vllm_device(device, links)
        if uuid not in links:
            raise WeightcastError(f"no worker link for device {uuid}; there are links for {sorted(links)}")
        models = _models_of(self.model_runner)

        def load_weights(weights: list[tuple[str, torch.Tensor]]) -> None:
            for model in models:
                model.load_weights(weights)

        def post_hook() -> None:
            from vllm.model_executor.model_loader.utils import process_weights_after_loading

            with _vllm_configuration(self):
                for model in models:
                    process_weights_after_loading(model, self.model_config, device)

        received = receive_weights(
            zmq.Context.instance(),
            links[uuid],
            device=device,
            device_uuid=uuid,
            load_weights=load_weights,
            post_hook=post_hook,
            silence_seconds=silence_seconds,
        )
        return {"epoch": received.epoch, "version": received.version, "tensors": received.tensors}


def update_weights_from_ipc(
    zmq_ctx: zmq.Context,
    zmq_handle: str,
    device_id: int,
    *,
    run: LoadWeights,
    post_hook: Callable[[], object] | None = None,
) -> None:
    """Stands where SGLang looks for `checkpoint_engine.worker.update_weights_from_ipc`.

    SGLang calls it once for the target model and, if it speculates with one, once more for the draft model, on the
    same address. What `receive_weights` says of digests and errors holds here.
    """
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", device_id) if cuda else torch.device("cpu")
    receive_weights(
        zmq_ctx,
        zmq_handle,
        device=device,
        device_uuid=f"GPU-{torch.cuda.get_device_properties(device).uuid}" if cuda else None,
        load_weights=run,
        post_hook=post_hook,
    )


def _uuid_of_vllm_device(device: torch.device, links: dict[str, str]) -> str:
    if device.type == "cuda":
        from vllm.platforms import current_platform

        return current_platform.get_device_uuid(device.index)
    # A host device is nothing that an engine knows of.
    named = os.environ.get("WEIGHTCAST_DEVICE_UUID")
    if named is not None:
        return named
    if len(links) == 1:
        return next(iter(links))
    raise WeightcastError(
        f"set WEIGHTCAST_DEVICE_UUID for this worker: it is on no GPU, and there are links for {sorted(links)}"
    )


def _models_of(model_runner: Any) -> list[Any]:
    """The target model and, where there is one, the draft model."""
    draft = getattr(getattr(model_runner, "drafter", None), "model", None)
    return [model_runner.model] if draft is None else [model_runner.model, draft]


def _vllm_configuration(worker: Any) -> contextlib.AbstractContextManager[Any]:
    """Some layers ask for the engine's configuration while they process their weights."""
    try:
        from vllm.config import set_current_vllm_config
    except ImportError:
        return contextlib.nullcontext()
    return set_current_vllm_config(worker.vllm_config)
