"""What ends an exchange early. Every message is one line, and names the tensor, device or address."""

from __future__ import annotations


class WeightcastError(Exception):
    """The base of all errors that weightcast itself raises."""


class ProtocolError(WeightcastError):
    """The rank said something that the worker link does not know, or at the wrong time."""


class UpdateAborted(WeightcastError):
    """The rank aborted the update; the message says why."""


class RankLost(WeightcastError):
    """The rank's process is gone, or never listened."""


class RankSilent(WeightcastError):
    """The rank is there, but said nothing for longer than allowed."""


class BufferInUse(WeightcastError):
    """The model holds on to memory that the rank is about to take back."""


class LoadFailed(WeightcastError):
    """The model failed to load a tensor; the message names it, and its cause is the model's own error."""


class ParametersMissing(WeightcastError):
    """The update ended without tensors for some of the model's parameters; the message names them."""


class ModelNotReloadable(WeightcastError):
    """This engine cannot change the weights of this model in place; nothing was touched."""


class EngineAsleep(WeightcastError):
    """The engine's weights are not in the device's memory (asleep, released); nothing was touched."""


class EngineBusy(WeightcastError):
    """Requests run or wait in the engine, which cannot drop its caches then; nothing was touched."""


class TensorsMoved(WeightcastError):
    """After the update tensors lie elsewhere than captured CUDA graphs read them; the message names them."""


class PartsUnknown(WeightcastError):
    """The rank would send parts of tensors by a record that this worker does not have; nothing was touched."""


class PartsChanged(WeightcastError):
    """The model reads other parts of the tensors than when they were recorded; whole tensors will do."""
