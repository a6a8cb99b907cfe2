"""A worker extension that spoils an update on purpose: `POST /collective_rpc {"method": "spoil_next", "args": [how]}`."""

from __future__ import annotations

from typing import Any

from weightcast.vllm_update import ModelUpdate
from weightcast.worker import VllmWorkerExtension

_finish = ModelUpdate.finish
_begin = ModelUpdate.begin


class Spoiler(VllmWorkerExtension):
    def spoil_next(self, how: str) -> None:
        """`scale`: a loader that scales one weight. `stale`: the head keeps the packed copy that it had before."""
        model = self.get_model()
        head: dict[str, Any] = {}

        def begin(update: ModelUpdate, request: Any) -> None:
            head["cpu_linear"] = model.lm_head.cpu_linear
            _begin(update, request)

        def finish(update: ModelUpdate) -> None:
            ModelUpdate.begin, ModelUpdate.finish = _begin, _finish
            _finish(update)
            if how == "scale":
                model.model.norm.weight.data.mul_(1.5)
            else:
                model.lm_head.cpu_linear = head["cpu_linear"]

        ModelUpdate.begin, ModelUpdate.finish = begin, finish
