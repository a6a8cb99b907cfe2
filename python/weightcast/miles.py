"""weightcast as an external weight-transfer protocol of miles:

    --update-weight-transfer-mode external
    --custom-weight-transfer-protocol-path weightcast.miles.build_protocol

with `weightcast.sglang_plugin` in the rollout engines, which `pip install weightcast` there is enough for. Rank 0, which
has every tensor gathered, publishes and lets the daemon install them. Options come as an attribute `weightcast` of miles'
arguments, a dict that `--custom-config-path` can set: `checkpoint`, `update` (arguments of `Publisher.update`), `instance`
(of `Client.add_instance`, such as `link`), and those of `weightcast.connect`.

Written to miles' published interface of autumn 2026; importing this needs nothing of miles.
"""

from __future__ import annotations

from typing import Any, Dict, Optional

from .client_errors import AbortedError, UsageError
from .needed_packages import needed_by
from .trainers import ensure_instances, update_options


def build_protocol(args: Any) -> Any:
    """What miles calls with its arguments: a `WeightTransferProtocol`."""
    with needed_by("weightcast.miles"):
        from miles.backends.training_utils.weight_update.hf_weight_iterator import WeightUpdatePlacement
        from miles.backends.training_utils.weight_update.protocol import WeightTransferProtocol

    class WeightcastProtocol(WeightTransferProtocol):
        # One rank has the whole model, as one version needs it.
        required_placement = WeightUpdatePlacement(gather_pp=True)
        supports_lora = False
        # The daemon pauses the engines for the installation alone, and resumes them. SGLang's session would unpack and
        # pack quantised weights around it once more.
        use_weight_update_session = False

        def __init__(self, args: Any) -> None:
            super().__init__(args)
            self.group_name = "weightcast"
            self._sender = Sender(getattr(args, "weightcast", None))

        def connect(
            self,
            rollout_engines: Any,
            engine_gpu_counts: Any = None,
            engine_gpu_offsets: Any = None,
            *_: Any,
            **__: Any,
        ) -> None:
            # Versions of miles differ in what else they say here.
            self.rollout_engines = rollout_engines
            self.is_sender = _rank() == 0
            if self.is_sender:
                self._sender.connect(rollout_engines, engine_gpu_counts, engine_gpu_offsets)

        def begin_sync(self, weight_version: int, iter_buckets: Any) -> bool:
            if self.is_sender:
                self._sender.begin(weight_version)
            return True

        def send_bucket(self, bucket: Any) -> None:
            self._sender.put(bucket)

        def finalize(self, weight_version: int) -> None:
            if not self.is_sender:
                return
            from miles.backends.training_utils.weight_update.session import set_weight_version

            self.update_weight_metrics.update(self._sender.finish())
            # The engines are known to the daemon by `checkpoint@digest`, and to miles by a number.
            set_weight_version(self.rollout_engines, weight_version)

    return WeightcastProtocol(args)


class Sender:
    """Rank 0's part: one version at a time, from the first bucket to the engines."""

    def __init__(self, options: Optional[Dict[str, Any]]) -> None:
        known = dict(options or {})
        self._instance = {"engine": "sglang", **known.pop("instance", {})}
        self._update = known.pop("update", None)
        self._connection = {"checkpoint": "policy", **known}
        self._publisher: Any = None
        self._version: Any = None
        self._names: Dict[str, str] = {}

    def connect(self, engines: Any, counts: Any, offsets: Any) -> None:
        """Called again when engines were replaced. Raises `UsageError`, `DaemonError`."""
        import weightcast

        if self._publisher is None:
            self._publisher = weightcast.connect(**self._connection)
        client, urls = self._publisher.client, [_url(engine) for engine in engines]
        if not urls:
            raise UsageError("miles has no rollout engines to update")
        for gone in self._names.keys() - set(urls):
            # Its devices are needed by those that take its place.
            client.remove_instance(self._names.pop(gone))
        for number, url in enumerate(urls):
            options = {**self._instance, "endpoint": url}
            if counts is not None:
                options.setdefault("workers", counts[number])
                if offsets is not None:
                    options.setdefault("devices", range(offsets[number], offsets[number] + counts[number]))
            (self._names[url],) = ensure_instances(client, [options])

    def begin(self, weight_version: int) -> None:
        if self._version is not None:
            # A round before has failed on its way.
            self._end(AbortedError("miles has begun another round"))
        self._version = self._publisher.version(f"step-{weight_version}").__enter__()

    def put(self, bucket: Any) -> None:
        self._version.put_all(bucket)

    def finish(self) -> Dict[str, float]:
        """Installs what was put, and returns metrics. Raises `DaemonError`."""
        self._end(None)
        update = self._publisher.update(**update_options(self._update, list(self._names.values())))
        return {"perf/weightcast_update_seconds": update.report.seconds}

    def _end(self, error: Optional[AbortedError]) -> None:
        version, self._version = self._version, None
        version.__exit__(error and type(error), error, None)


def _url(engine: Any) -> str:
    url = getattr(engine, "server_url", None)
    if not isinstance(url, str):
        raise UsageError(f"a rollout engine of miles is a {type(engine).__name__} without server_url")
    return url.rstrip("/")


def _rank() -> int:
    with needed_by("weightcast.miles"):
        import torch.distributed as group

    return group.get_rank() if group.is_initialized() else 0
