"""One call as grpc.server's core holds it: the context of its method, and how it is read, answered and ended.

The public face of grpc.server ends a call only when its method returns, in the thread that runs it. Here
whoever has a reason to ends it, in any thread and at once; what the method does after that reaches nobody.
And a message is waited for without a thread.

This reaches below grpc.server's public face. Where grpcio has changed so much that it cannot, `check_reach`
says so, and no server is made.
"""

import inspect
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import grpc
import grpc._server
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from hauberk.interceptors.aio_exchange import CUT_OFF_S
from hauberk.interceptors.deadline import Deadline

_log = logging.getLogger(__name__)

_server: Any = grpc._server  # which is not written for strangers to its types
_NO_FLAGS = 0
_NEVER_S = 1e15
"""Core's way to say that there is no deadline: more seconds than this."""


_NAMES = {
    name.encode(): name
    for name in (
        "transport_security_type",
        "ssl_tls_version",
        "ssl_session_reused",
        "ssl_negotiated_key_exchange_group",
        "security_level",
        "peer_spiffe_id",
        "peer_uri",
        "peer_dns",
        "x509_pem_cert",
        "x509_pem_cert_chain",
        "x509_subject",
        "x509_common_name",
        "x509_subject_alternative_name",
    )
}


class Aborted(Exception):
    """What abort() raises in the method."""


def check_reach() -> None:
    """Raise AttributeError if this grpcio is not built as we need it."""
    for part in ("_abort", "_get_initial_metadata_operation", "_possibly_finish_call", "_raise_rpc_error"):
        getattr(_server, part)
    passed = list(inspect.signature(_server._stream_response_in_pool).parameters)
    if passed[:3] != ["rpc_event", "state", "behavior"]:
        raise AttributeError(f"threads of grpc.server are given {passed}")
    state = _server._RPCState()
    for part in ("condition", "due", "client", "statused", "callbacks", "aborted", "rpc_errors", "context"):
        getattr(state, part)


class Exchange(grpc._server._Context):
    """The context that the method is given. Everything not said here is core's own."""

    def __init__(self, event: Any, state: Any) -> None:
        super().__init__(event, state, None)
        self._state: Any
        self.deadline: Deadline | None = None
        """The call's own, once it is known: it may be sooner than the caller's."""

    # What the method calls.

    def time_remaining(self) -> float:
        """Seconds, until the sooner of the caller's deadline and the contract's."""
        left: float = super().time_remaining()
        return left if self.deadline is None else max(0.0, min(left, self.deadline.left(time.monotonic())))

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        try:
            super().abort(code, details)
        except Exception:
            raise Aborted from None
        raise Aborted

    # What the edge calls.

    @property
    def over(self) -> bool:
        """Whether the call has its status, or its caller has left."""
        return self._state.statused or self._state.client is _server._CANCELLED

    @property
    def left(self) -> bool:
        """Whether its caller has left."""
        return self._state.client is _server._CANCELLED

    @property
    def aborted(self) -> bool:
        return bool(self._state.aborted)

    @property
    def lock(self) -> Any:
        """Held while `over` and what depends on it are looked at and changed."""
        return self._state.condition

    def auth_context(self) -> Any:
        """As core's own, in half the time: the names of properties are few and always the same."""
        found = cygrpc.auth_context(self._rpc_event.call) or {}
        return {_NAMES.get(key) or key.decode("utf-8", "replace"): value for key, value in found.items()}

    def time_left_s(self) -> float | None:
        """Seconds that the caller gives; negative where they have passed, None without a deadline."""
        at: float = self._rpc_event.call_details.deadline
        return None if at > _NEVER_S else at - time.time()

    def when_over(self, act: Callable[[], None]) -> None:
        """Have core do `act` once the call is over and all that was sent has left."""
        self._state.callbacks.append(act)

    def own(self, error: BaseException) -> bool:
        """Whether `error` is what this call raises in a method that goes on after its end."""
        return error in self._state.rpc_errors

    def forget(self) -> None:
        """Let go of the errors of this call: they hold the frames that hold it."""
        self._state.rpc_errors.clear()

    def run(self, work: Callable[[], None]) -> None:
        """Do `work` in the context that core made for this call."""
        self._state.context.run(self._installed, work)

    def _installed(self, work: Callable[[], None]) -> None:
        cygrpc.install_context_from_request_call_event(self._rpc_event)
        try:
            work()
        finally:
            cygrpc.uninstall_context()

    def receive(self, came: Callable[[bytes | None], None]) -> None:
        """Have core call `came` with the next message, or None where there is none, in its own thread."""
        state = self._state

        def received(event: Any) -> Any:
            message = event.batch_operations[0].message()
            with state.condition:
                if message is None and state.client is _server._OPEN:
                    state.client = _server._CLOSED
                finished = _server._possibly_finish_call(state, _server._RECEIVE_MESSAGE_TOKEN)
                try:
                    came(message)
                except Exception:  # core's thread would end with it, and the server
                    _log.exception("a message could not be taken")
                state.condition.notify_all()
            return finished

        with state.condition:
            self._rpc_event.call.start_server_batch((cygrpc.ReceiveMessageOperation(_NO_FLAGS),), received)
            state.due.add(_server._RECEIVE_MESSAGE_TOKEN)

    def messages(self) -> Iterator[bytes]:
        """The messages as they come. Raises RpcError once the call is over, as where they were cut off."""
        while (message := self._next()) is not None:
            yield message

    def _next(self) -> bytes | None:
        state = self._state
        come: list[bytes | None] = []
        with state.condition:
            self._check_goes_on()
            if state.client is not _server._CLOSED:
                self.receive(come.append)
                state.condition.wait_for(lambda: come or self.over)
                self._check_goes_on()
            if not come or come[0] is None:
                # Where the caller cancels or is lost, core first ends the requests, as if that were all.
                state.condition.wait_for(lambda: self.over, CUT_OFF_S)
                self._check_goes_on()
                return None
            return come[0]

    def write(self, message: bytes) -> None:
        """Send one of many replies, and wait until it has left. Raises RpcError once the call is over."""
        state = self._state
        with state.condition:
            self._check_goes_on()
            operations = [cygrpc.SendMessageOperation(message, self._flags())]
            token = _server._SEND_MESSAGE_TOKEN
            if state.initial_metadata_allowed:
                operations.insert(0, _server._get_initial_metadata_operation(state, None))
                state.initial_metadata_allowed = False
                token = _server._SEND_INITIAL_METADATA_AND_SEND_MESSAGE_TOKEN
            self._rpc_event.call.start_server_batch(operations, _server._send_message(state, token))
            state.due.add(token)
            state.disable_next_compression = False
            state.condition.wait_for(lambda: token not in state.due or self.over)
            self._check_goes_on()

    def finish(self, code: Any, details: str | bytes | None, trailers: Any, reply: bytes | None) -> None:
        """Give the call, which must not be over, its status, and its one reply together with it.

        Raises whatever core does where the method made them so that they cannot be sent; nothing is then.
        A write that its caller does not let through stays begun; core sends the status after it.
        """
        state = self._state
        with state.condition:
            operations = [
                cygrpc.SendStatusFromServerOperation(
                    trailers or None, _core_code(code), _encoded(details), _NO_FLAGS
                )
            ]
            if state.initial_metadata_allowed:
                operations.append(_server._get_initial_metadata_operation(state, None))
            if reply is not None:
                operations.append(cygrpc.SendMessageOperation(reply, self._flags()))
            token = _server._SEND_STATUS_FROM_SERVER_TOKEN
            self._rpc_event.call.start_server_batch(
                operations, _server._send_status_from_server(state, token)
            )
            state.initial_metadata_allowed = False
            state.statused = True
            state.due.add(token)
            state.condition.notify_all()

    def _flags(self) -> Any:
        return _server._get_send_message_op_flags_from_state(self._state)

    def _check_goes_on(self) -> None:
        if self.over:
            _server._raise_rpc_error(self._state)


def _encoded(details: str | bytes | None) -> bytes:
    return details if isinstance(details, bytes) else (details or "").encode()


def _core_code(code: Any) -> Any:
    return cygrpc.StatusCode.ok if code is None else _server._application_code(code)
