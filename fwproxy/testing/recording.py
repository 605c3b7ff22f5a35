"""The calls of filters, written down as values, and answered otherwise where a test wants it."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, cast

import attrs

from fwproxy.connection.connection import Connection
from fwproxy.engine.engine import Engine
from fwproxy.errors import FwproxyError
from fwproxy.protocol import ProtocolDefinition
from fwproxy.session.session import Session

_OF_SESSIONS = (
    "allow_future_connect", "bind_for_client", "connect_for_client", "emulate_client_bind",
    "get_host_by_addr", "get_host_by_name", "host_access_check", "redirect_connections",
    "retroactive_allow_bind", "set_data_filter_factory", "share_redirection",
)  # fmt: skip
_OF_CONNECTIONS = (
    "attach_data_filter", "connect", "deny", "emulate_connection", "emulate_for_bind",
    "emulate_for_connect", "kill", "set_buffer_size", "set_client_address", "set_ip_filter",
)  # fmt: skip

CALLS = frozenset(_OF_SESSIONS + _OF_CONNECTIONS)
"""The names of the calls that are written down."""


@attrs.define(eq=False)
class Call:
    """One call of a filter: `call["targets"]` is the argument of that name.

    Attributes:
        name: the method.
        subject: the session or connection that it was made on.
        arguments: by name; those that were left out have their defaults.
        result: what came back.
        error: what was raised instead.
        is_done: whether it has come back.
    """

    name: str
    subject: Session | Connection
    arguments: Mapping[str, Any]
    result: Any = None
    error: BaseException | None = None
    is_done: bool = False

    def __getitem__(self, argument: str) -> Any:
        """Return the argument of that name."""
        return self.arguments[argument]

    @property
    def summary(self) -> tuple[str, str, str]:
        """The name, the arguments but for filters and contexts, and the error, as text."""
        shown = {
            name: value
            for name, value in self.arguments.items()
            if name not in {"session_filter", "context", "data_filter", "factory"}
        }
        return self.name, _spelled(shown), "" if self.error is None else repr(self.error)


def _spelled(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={_spelled(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_spelled, value))}]"
    if isinstance(value, Connection):
        return "a connection" if value.is_secondary else "the primary connection"
    return value.name if isinstance(value, ProtocolDefinition) else str(value)


class Recorder:
    """What the filters of one script have called, and what they are told.

    Attributes:
        calls: in their order.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._errors: dict[str, FwproxyError] = {}
        self._gates: defaultdict[str, list[asyncio.Future[None]]] = defaultdict(list)
        self._held: set[str] = set()

    def refuse(self, name: str, error: FwproxyError | None) -> None:
        """Let each call of that name fail with *error*, from now on; None ends that."""
        _check(name)
        if error is None:
            self._errors.pop(name, None)
        else:
            self._errors[name] = error

    def hold(self, *names: str) -> None:
        """Let the calls of these names wait, from now on; those that are no coroutines cannot."""
        for name in names:
            _check(name)
            self._held.add(name)

    def let_go(self) -> None:
        """Let those that wait, and all further ones, go on."""
        self._held.clear()
        for gates in self._gates.values():
            for gate in gates:
                if not gate.done():
                    gate.set_result(None)
        self._gates.clear()

    def begin(self, call: Call) -> None:
        """Write a call down."""
        self.calls.append(call)

    async def wait(self, name: str) -> None:
        """Wait if the test wants it so."""
        if name in self._held:
            gate = asyncio.get_running_loop().create_future()
            self._gates[name].append(gate)
            await gate

    def check(self, name: str) -> None:
        """Raise what the test wants to be raised."""
        if name in self._errors:
            raise self._errors[name]


def _check(name: str) -> None:
    if name not in CALLS:
        raise ValueError(f"{name!r} is none of the calls {', '.join(sorted(CALLS))}")


@attrs.define(slots=True, eq=False)
class RecordingEngine(Engine):
    """An engine whose sessions write down what filters call."""

    recorder: Recorder = attrs.field(factory=Recorder)


def _recorder(subject: Session | Connection) -> Recorder:
    session = subject if isinstance(subject, Session) else subject.session
    return cast(RecordingEngine, session.engine).recorder


def _recorded(method: Callable[..., Any]) -> Callable[..., Any]:
    name, signature = method.__name__, inspect.signature(method)

    def begin(subject: Any, args: Any, kwargs: Any) -> tuple[Recorder, Call]:
        bound = signature.bind(subject, *args, **kwargs)
        bound.apply_defaults()
        arguments = {key: value for key, value in bound.arguments.items() if key != "self"}
        recorder, call = _recorder(subject), Call(name, subject, arguments)
        recorder.begin(call)
        return recorder, call

    @functools.wraps(method)
    def recorded(subject: Any, *args: Any, **kwargs: Any) -> Any:
        recorder, call = begin(subject, args, kwargs)
        try:
            recorder.check(name)
            call.result = method(subject, *args, **kwargs)
        except BaseException as error:
            call.error = error
            raise
        finally:
            call.is_done = True
        return call.result

    @functools.wraps(method)
    async def recorded_later(subject: Any, *args: Any, **kwargs: Any) -> Any:
        recorder, call = begin(subject, args, kwargs)
        try:
            await recorder.wait(name)
            recorder.check(name)
            call.result = await method(subject, *args, **kwargs)
        except BaseException as error:
            call.error = error
            raise
        finally:
            call.is_done = True
        return call.result

    return recorded_later if inspect.iscoroutinefunction(method) else recorded


class RecordingConnection(Connection):
    """A connection that writes down what filters do with it."""

    __slots__ = ()


class RecordingSession(Session):
    """A session that writes down what filters ask it for."""

    __slots__ = ()
    connection_class = RecordingConnection


for _name in _OF_CONNECTIONS:
    setattr(RecordingConnection, _name, _recorded(getattr(Connection, _name)))
for _name in _OF_SESSIONS:
    setattr(RecordingSession, _name, _recorded(getattr(Session, _name)))
