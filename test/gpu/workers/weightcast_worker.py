"""weightcast's own worker, in one of the forms that engines use it in; commands as in engine_stub.py.

Usage: weightcast_worker.py <device: cpu, cuda:N, or fake-cuda> <form: vllm, draft, or sglang> <silence, in seconds> [<share>]

A share is `0/2`, the first of two of each tensor: all that the model keeps of it.

There is no engine here: what `VllmWorkerExtension` asks of vLLM is answered by stand-ins of the same names, the device
uuid on a GPU by torch. `draft` is vLLM with a draft model beside the target.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import types
from typing import Any

import torch
import zmq
from engine_stub import RecordingModel, device_of, map_host_memory, serve, tell
from weightcast import device_memory
from weightcast.worker import VllmWorkerExtension, update_weights_from_ipc, update_worker

CONFIGURATION = types.SimpleNamespace(
    speculative_config=types.SimpleNamespace(method="mtp", draft_model_config="draft configuration")
)
current_configuration: list[object] = []


def stand_in_for_vllm(models: list[RecordingModel], device: torch.device) -> None:
    def process_weights_after_loading(model: Any, model_config: Any, target_device: torch.device) -> None:
        assert current_configuration == [CONFIGURATION], "the engine's configuration is not set"
        index = [model is other for other in models].index(True)
        assert (
            model_config == ("model configuration", "draft configuration")[index] and target_device == device
        )
        tell(processed=index)
        model.post_hook()

    @contextlib.contextmanager
    def set_current_vllm_config(configuration: object) -> Any:
        current_configuration.append(configuration)
        try:
            yield
        finally:
            current_configuration.pop()

    def get_device_uuid(index: int) -> str:
        return f"GPU-{torch.cuda.get_device_properties(index).uuid}"

    contents = {
        "vllm": {},
        "vllm.config": {"set_current_vllm_config": set_current_vllm_config},
        "vllm.platforms": {"current_platform": types.SimpleNamespace(get_device_uuid=get_device_uuid)},
        "vllm.model_executor": {},
        "vllm.model_executor.model_loader": {},
        "vllm.model_executor.model_loader.utils": {
            "process_weights_after_loading": process_weights_after_loading
        },
    }
    for name, members in contents.items():
        module = types.ModuleType(name)
        module.__dict__.update(members)
        sys.modules[name] = module


def vllm_worker(models: list[RecordingModel], device: torch.device) -> Any:
    class Worker(VllmWorkerExtension):
        """As vLLM makes it: its own worker class, with the extension mixed in."""

        model_config = "model configuration"
        vllm_config = CONFIGURATION

        def get_model(self) -> RecordingModel:
            return models[0]

        def get_draft_model(self) -> RecordingModel | None:
            return models[1] if len(models) > 1 else None

    worker = Worker()
    worker.device = device
    return worker


def main() -> None:
    device, form, silence = device_of(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    if sys.argv[1] == "fake-cuda":
        device_memory._open_host = map_host_memory
    index, _, count = (sys.argv[4] if len(sys.argv) > 4 else "0/1").partition("/")
    model = RecordingModel(share=(int(index), int(count)))
    if form == "sglang":
        context = zmq.Context()

        def post_hook() -> None:
            # As SGLang's does.
            try:
                model.post_hook()
            except Exception as error:
                logging.getLogger(__name__).warning("Post-hook processing failed: %s", error)

        def update(links: dict[str, str]) -> None:
            (address,) = links.values()
            update_weights_from_ipc(
                context, address, device.index or 0, run=model.load_weights, post_hook=post_hook
            )

        serve(model, update)
        return
    models = [model, RecordingModel(announce=False)] if form == "draft" else [model]
    stand_in_for_vllm(models, device)
    worker = vllm_worker(models, device)

    def update(links: dict[str, str]) -> Any:
        if form == "draft":
            models[1].begin()
        result = update_worker(worker, links, silence)
        if form == "draft":
            assert models[1].tensors.keys() == model.tensors.keys()
        return result

    serve(model, update)


main()
