"""What the start of an SGLang model showed: which layers it repacked, and what it filled from the checkpoint.

SGLang keeps no record of either, and an update must know both. So the start is watched: the parameters of each layer
are compared before and after its post-processing, form and content, and the loaders of parameters note that they ran.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch

from .digesters import digester_of

logger = logging.getLogger(__name__)

Written = tuple[str, ...]
"""A parameter's name, and which part of it: a shard, an expert."""


@dataclass(frozen=True)
class Changes:
    """What post-processing did to a layer's parameters, by their names."""

    form: tuple[str, ...]
    """Are not what the layer's loaders fill any more."""
    content: tuple[str, ...]
    """Have the same form, and other content."""


class Start:
    """Of one model. Holds no reference to it."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.written: set[Written] = set()
        """Since `begin_loading`, or since the model was made."""
        self._filled: frozenset[Written] | None = None
        self._processed: WeakKeyDictionary[torch.nn.Module, Changes | None] = WeakKeyDictionary()
        # By the names at the start: wrappers such as LoRA's put layers one level further down.
        self._paths = WeakKeyDictionary({layer: path for path, layer in model.named_modules()})
        self._names: dict[int, str] = {}
        self.watch_loaders(model)
        for layer in model.modules():
            method = getattr(layer, "quant_method", None)
            if method is not None:
                self._watch_processing(method)

    def path_of(self, layer: torch.nn.Module) -> str:
        return self._paths.get(layer, type(layer).__name__)

    def changes_of(self, layer: torch.nn.Module) -> Changes | None:
        """None for a layer whose post-processing nobody saw."""
        return self._processed.get(layer)

    def expected(self) -> frozenset[Written]:
        """What the start filled. Empty if that is not known, as after `--load-format dummy`."""
        if self._filled is None:
            self._filled = frozenset(self.written)
        return self._filled

    def begin_loading(self) -> None:
        """Of an update: `written` is what it writes from now on."""
        self.expected()
        self.written = set()

    def watch_loaders(self, model: torch.nn.Module) -> None:
        """Also for parameters that have been put in the place of others since."""
        self._names.clear()
        for layer in model.modules():
            path = self._paths.get(layer)
            if path is None:
                continue
            for name, parameter in layer._parameters.items():
                if parameter is not None:
                    full_name = f"{path}.{name}" if path else name
                    self._names[id(parameter)] = full_name
                    self._watch_loader(full_name, parameter)

    def note(self, parameter: torch.Tensor) -> None:
        name = self._names.get(id(parameter))
        if name is not None:
            self.written.add((name,))

    def _watch_loader(self, name: str, parameter: Any) -> None:
        load = getattr(parameter, "weight_loader", None)
        # Models ask for SGLang's loader of whole parameters by its identity; it tells us by a hook of its own.
        is_whole = getattr(load, "__name__", None) == "default_weight_loader"
        if load is None or is_whole or hasattr(load, "watched_by_weightcast"):
            return

        @functools.wraps(load)
        def watched(*values: Any, **named: Any) -> Any:
            result = load(*values, **named)
            self.written.add((name, *_parts(values[2:], named)))
            return result

        watched.watched_by_weightcast = True  # type: ignore[attr-defined]
        try:
            parameter.weight_loader = watched
        except AttributeError:
            # A property of some of SGLang's classes of parameters.
            parameter._weight_loader = watched

    def _watch_processing(self, method: Any) -> None:
        process = method.process_weights_after_loading
        if hasattr(process, "watched_by_weightcast"):
            return

        @functools.wraps(process)
        def watched(layer: torch.nn.Module, *values: Any, **named: Any) -> Any:
            # Only at the start: later on the layer is in the form that this gave it.
            if layer in self._processed:
                return process(layer, *values, **named)
            before = _look_at(layer)
            result = process(layer, *values, **named)
            after = None if before is None else _look_at(layer, before.forms)
            self._processed[layer] = None if before is None or after is None else _changes(before, after)
            return result

        watched.watched_by_weightcast = True  # type: ignore[attr-defined]
        method.process_weights_after_loading = watched


_starts: WeakKeyDictionary[torch.nn.Module, Start] = WeakKeyDictionary()


def watch_start(model: torch.nn.Module, load_config: Any) -> None:
    """To be called when a model was made and nothing is loaded yet."""
    load_format = getattr(load_config, "load_format", None)
    # SGLang's own reload for reinforcement learning, which looks closely at loaders and methods.
    if getattr(load_format, "value", load_format) == "flash_rl":
        return
    _starts[model] = Start(model)


def start_of(model: torch.nn.Module) -> Start | None:
    return _starts.get(model)


def note_written(parameter: torch.Tensor) -> None:
    """SGLang's loader of whole parameters has filled one."""
    for start in list(_starts.values()):
        start.note(parameter)


def _parts(values: tuple[Any, ...], named: dict[str, Any]) -> Iterator[str]:
    for value in (*values, *named.values()):
        if isinstance(value, (str, int)):
            yield str(value)


@dataclass(frozen=True)
class _Form:
    has_loader: bool
    dtype: torch.dtype
    shape: torch.Size
    stride: tuple[int, ...]


@dataclass(frozen=True)
class _Look:
    """At the parameters of a layer, by name."""

    forms: dict[str, _Form]
    digests: dict[str, bytes]


def _look_at(layer: torch.nn.Module, like: dict[str, _Form] | None = None) -> _Look | None:
    """With digests of those that are `like` what they were. None if it fails: a start goes on whatever happens here."""
    try:
        named = {name: value for name, value in layer._parameters.items() if value is not None}
        forms = {
            name: _Form(hasattr(value, "weight_loader"), value.dtype, value.shape, value.stride())
            for name, value in named.items()
        }
        names = [name for name, form in forms.items() if like is None or like.get(name) == form]
        digests = _digests_of([named[name] for name in names])
        return _Look(forms, dict(zip(names, digests, strict=True)))
    except Exception:
        logger.exception("a layer (%s) cannot be compared with itself", type(layer).__name__)
        return None


@torch.no_grad()
def _digests_of(parameters: list[torch.nn.Parameter]) -> list[bytes]:
    if not parameters:
        return []
    digester = digester_of(parameters[0].device)
    digester.add([_bytes_of(parameter.data) for parameter in parameters])
    words = digester.words()
    return [words[start : start + 8] for start in range(0, len(words), 8)]


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    data = tensor.contiguous()
    if data.data_ptr() % 8 != 0:
        data = data.clone()
    return data.reshape(-1).view(torch.uint8)


def _changes(before: _Look, after: _Look) -> Changes:
    form, content = [], []
    for name, old_form in before.forms.items():
        if after.forms.get(name) != old_form:
            form.append(name)
        elif after.digests[name] != before.digests[name]:
            content.append(name)
    return Changes(tuple(form), tuple(content))
