"""One exchange with a rank, from the worker's side, whichever engine the worker belongs to."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass

import torch
import zmq

from .buckets import Bucket, Lent, Pair, copied_if_small
from .device_memory import LinkBuffer
from .digest import Digester
from .digesters import digester_of
from .dtypes import view_of
from .errors import PartsUnknown, ProtocolError, RankLost, RankSilent, UpdateAborted, WeightcastError
from .kept_parts import KeptParts
from .link import RankLink
from .load_failed import load_failed
from .messages import (
    Abort,
    Finish,
    Installed,
    Load,
    Open,
    Release,
    Request,
    check_protocol,
    decode_request,
    encode_failure,
    encode_report,
    encode_opened,
    encode_success,
    is_abort,
)

logger = logging.getLogger(__name__)

LoadWeights = Callable[[list[tuple[str, torch.Tensor]]], object]
Begin = Callable[[Open], object]
Installing = Callable[[], "Installed | None"]

DEFAULT_SILENCE_SECONDS = 600.0


@dataclass(frozen=True)
class ReceivedWeights:
    """What the rank said it sent, and this worker loaded."""

    epoch: int
    version: str
    """`checkpoint@digest`."""
    tensors: int


def receive_weights(
    context: zmq.Context,
    address: str,
    *,
    device: torch.device,
    device_uuid: str | None,
    load_weights: LoadWeights,
    post_hook: Callable[[], object] | None = None,
    begin: Begin | None = None,
    installed: Installing | None = None,
    parts: KeptParts | None = None,
    one_call: bool = False,
    may_hold: bool = False,
    silence_seconds: float = DEFAULT_SILENCE_SECONDS,
) -> ReceivedWeights:
    """Receives one set of weights from the rank that listens at `address`, and returns when all are installed.

    `load_weights` is called once for each bucket, with pairs of name and tensor, on `device`. The tensors lie in
    memory of the rank: it must copy what it wants to keep. `device_uuid`: an exchange for another device is refused;
    None where the worker does not know its own. `begin` gets the rank's first request, and may refuse it: nothing has
    changed then. `installed`, after the post-hook, says what the model holds, if the rank has asked for that. With `parts`,
    within whose `watch` it must load, a rank that can may send parts of tensors later on; `load_weights` gets these at their
    place in tensors of the whole shape, of which the rest has no meaning. With `one_call` it gets each list as a `Bucket`,
    and may take those that follow in the same call. With `may_hold`, tensors that the model holds on to once a bucket is loaded
    get memory of their own.

    The rank is told a digest of every tensor, **taken of the bytes as they were received**, on the device, just
    before `load_weights` gets them. It proves that the checkpoint's bytes were in this worker's reach, whole and
    in the right place, when it loaded them: neither upload nor broadcast nor this link changed one. It does not prove
    what `load_weights` and the post-hook then made of them: engines fuse, shard, cast and repack, so that what
    they hold has no digest that could be compared with the checkpoint's.

    Raises what `load_weights` or `post_hook` raised, once the rank has been told and has hung up; UpdateAborted
    when the rank aborts; RankLost at once when it is gone, or was never there; RankSilent when it says nothing for
    `silence_seconds`, or longer if it has asked for that; ProtocolError when it does not keep to the protocol. The link buffer is dropped before.
    """
    link = RankLink(context, address, silence_seconds, is_urgent=is_abort)
    exchange = _Exchange(link, device, device_uuid, load_weights, post_hook, begin, installed, parts, one_call, may_hold)
    try:
        return exchange.run()
    finally:
        exchange.drop_quietly()
        link.close()


class _Exchange:
    def __init__(
        self,
        link: RankLink,
        device: torch.device,
        device_uuid: str | None,
        load_weights: LoadWeights,
        post_hook: Callable[[], object] | None,
        begin: Begin | None,
        installed: Installing | None,
        parts: KeptParts | None,
        one_call: bool,
        may_hold: bool,
    ) -> None:
        self._link = link
        self._device = device
        self._device_uuid = device_uuid
        self._load_weights = load_weights
        self._post_hook = post_hook
        self._begin = begin
        self._installed = installed
        self._parts = parts
        self._one_call = one_call
        self._may_hold = may_hold
        self._opened: Open | None = None
        self._buffer: LinkBuffer | None = None
        self._digester: Digester | None = None
        self._digests = b""
        self._tensors = 0
        self._lent: Lent | None = None
        """Of the bucket that is not answered yet."""
        self._loading: Load | None = None
        self._last: list[Pair] = []
        """Its last tensor."""
        self._read: Request | None = None
        """What came after the buckets that one call of `load_weights` has taken."""

    def run(self) -> ReceivedWeights:
        while True:
            try:
                request = self._read or self._next()
                self._read = None
                reply = self._serve(request)
            except Exception as error:
                self._end(error)
                raise
            if reply is not None:
                self._link.send(reply)
            if isinstance(request, Finish):
                return self._received()

    def _next(self) -> Request:
        """Raises UpdateAborted."""
        request = decode_request(self._link.receive())
        if isinstance(request, Abort):
            raise UpdateAborted(f"the rank aborted the update: {request.reason}")
        return request

    def drop_quietly(self) -> None:
        """For an exchange that has ended: what went wrong is known already."""
        try:
            self._drop()
        except Exception as error:
            logger.warning("the link buffer is not free: %s", error)

    def _serve(self, request: Request) -> bytes | None:
        """The answer, unless it is sent."""
        if isinstance(request, Open):
            return encode_opened(self._open(request))
        if isinstance(request, Finish):
            return self._finish(request)
        if self._buffer is None:
            raise ProtocolError("the rank asks to load or release before it has opened a link buffer")
        if isinstance(request, Load):
            return self._load(request)
        if isinstance(request, Release):
            self._release()
        return encode_success()

    def _open(self, request: Open) -> bool:
        """What the answer says of parts."""
        check_protocol(request.protocol)
        if self._device_uuid not in (None, request.device):
            raise ProtocolError(f"the rank is on device {request.device}, this worker on {self._device_uuid}")
        if self._opened is not None:
            raise ProtocolError("the rank opened a second link buffer")
        if self._begin is not None:
            self._begin(request)
        if self._parts is None and request.kept is not None:
            raise PartsUnknown("this worker takes whole tensors only")
        is_recording = self._parts is not None and self._parts.open(request)
        self._opened = request
        self._link.wait_longer(request.silence_seconds)
        self._buffer = LinkBuffer(request.handle, request.bytes, self._device)
        return is_recording

    def _load(self, request: Load) -> bytes | None:
        with torch.no_grad():
            self._load_model(self._bucket(request))
            if self._lent is None:
                return None
            self._last = []
            if self._may_hold:
                self._lent.take_back()
        self._loaded()
        return encode_success()

    def _bucket(self, request: Load) -> Bucket:
        assert self._opened is not None and self._buffer is not None
        lent = self._lent = Lent(self._buffer.bytes)
        places = [view_of(lent.bytes, tensor) for tensor in request.tensors]
        lent.give()
        if self._goes_on and places:
            places[-1] = copied_if_small(*places[-1])
        if self._parts is not None:
            places = self._parts.unpack(request.tensors, places)
        if self._opened.report:
            if self._digester is None:
                self._digester = digester_of(self._device)
            self._digester.add([data for data, _ in places])
        self._tensors += len(places)
        named = [(tensor.name, view) for tensor, (_, view) in zip(request.tensors, places, strict=True)]
        if not self._goes_on:
            return Bucket(named, lent.address, None)
        self._loading, self._last = request, named[-1:]
        return Bucket(named, lent.address, self._following)

    @property
    def _goes_on(self) -> bool:
        return self._one_call and (self._parts is None or not self._parts.takes_part)

    def _following(self) -> Bucket | None:
        """A model that holds on to anything of a bucket when it asks for more may not have read it yet."""
        if self._lent is None or not self._lent.is_back:
            return None
        self._loaded()
        self._link.send(encode_success())
        request = self._next()
        if isinstance(request, Load):
            return self._bucket(request)
        self._read = request
        return None

    def _loaded(self) -> None:
        """The rank reuses the slot once it has our answer: by then nothing may read it any more."""
        if self._parts is not None:
            self._parts.loaded()
        self._synchronize()
        self._lent = None
        self._last = []

    def _load_model(self, bucket: Bucket) -> None:
        try:
            self._load_weights(bucket)
        except WeightcastError:
            raise
        except Exception as error:
            failed = load_failed(error, bucket if bucket.following is None else self._given())
            if failed is None:
                raise
            raise failed from error

    def _given(self) -> list[Pair]:
        """The tensors of the bucket that is loaded, which has given them away."""
        assert self._loading is not None and self._buffer is not None
        others = [(one.name, view_of(self._buffer.bytes, one)[1]) for one in self._loading.tensors[:-1]]
        return others + self._last

    def _finish(self, request: Finish) -> bytes:
        if self._opened is None or self._buffer is not None:
            raise ProtocolError("the rank asks to finish before it has opened and released a link buffer")
        if self._parts is not None:
            self._parts.finish()
        if self._post_hook is not None:
            with torch.no_grad():
                self._post_hook()
        installed = None
        if self._opened.installed and self._installed is not None:
            with torch.no_grad():
                installed = self._installed()
        self._synchronize()
        digests = self._digests if self._opened.report else None
        kept = self._parts.kept() if self._parts is not None else None
        return encode_report(digests, self._tensors, installed, request.layouts, kept)

    def _received(self) -> ReceivedWeights:
        assert self._opened is not None
        return ReceivedWeights(self._opened.epoch, self._opened.version, self._tensors)

    def _release(self) -> None:
        """Fetches the digests first: with the buffer goes the memory that they were computed in."""
        if self._digester is not None:
            self._digests = self._digester.words()
        self._drop()

    def _drop(self) -> None:
        self._digester = None
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            buffer.drop()

    def _end(self, error: Exception) -> None:
        """Answers all that the rank has asked with the reason, until it has heard: it aborts or hangs up."""
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        causes = _with_causes(error)
        # The frames that the error went through hold views of the buffer, which the rank frees once it knows.
        for one in causes:
            traceback.clear_frames(one.__traceback__)
        self._lent = None
        self._last = []
        self.drop_quietly()
        if any(isinstance(one, (RankLost, RankSilent, UpdateAborted)) for one in causes):
            return
        try:
            heard = False
            while not heard:
                self._link.send(encode_failure(text))
                heard = is_abort(self._link.receive())
        except WeightcastError:
            pass

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _with_causes(error: BaseException) -> list[BaseException]:
    """It, and those that were in hand when it was raised, and so on."""
    found: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and one not in found:
            found.append(one)
            waiting += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]
    return found
