"""What a row of the matrix says, and the kinds of rows there are: see matrix_rows.py, which has them all."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import grpc

from hauberk.interceptors import errors
from hauberk.interceptors.demands import MessageBounds, TokenRule
from tests.interceptors import wrongs
from tests.interceptors.matrix_scene import GOOD, Around, Scene, Sent
from tests.interceptors.stage import Metadata, Shape
from tests.interceptors.token_calls import bearer
from tests.interceptors.token_forge import bound_to

EVERY = tuple(Shape)
ONE_REQUEST = tuple(shape for shape in Shape if not shape.requests_stream)
MANY_REQUESTS = tuple(shape for shape in Shape if shape.requests_stream)

GOOD_CALL = Sent()


class Runs(Enum):
    """Whether the method of a refused call may have begun."""

    NEVER = "before the method"
    STREAMS = "as a message is read, which a method whose requests stream does itself"
    ALWAYS = "in the midst of the method"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One refusal: what the server demands, what is wrong, and the two calls."""

    check: str
    """The function of the pipeline that refuses; or where else it is done."""
    refusal: type[BaseException] | None
    """None: core refuses, in the handshake."""
    code: str
    reason: str | None
    """As the caller is told it."""
    logged: str = ""
    """As our records have it, if they say more."""
    said: Mapping[str, Any] = field(default_factory=dict)
    """Of the policy."""
    guard: Callable[[Scene], dict[str, Any]] = lambda scene: {}
    server: Callable[[Scene], grpc.ServerCredentials | None] = lambda scene: None
    wrong: Around = wrongs.nothing
    refused: Sent = GOOD_CALL
    allowed: Sent = GOOD_CALL
    """On the same server, when nothing is wrong any more."""
    shapes: tuple[Shape, ...] = EVERY
    runs: Runs = Runs.NEVER
    retry: bool = False
    others: int = 0
    """Calls that were needed besides."""


def row(check: str, refusal: type[errors.Refused], **more: Any) -> Row:
    """A row of a refusal of ours, whose code and reason are its class's if nothing else is said."""
    return Row(
        **{"check": check, "refusal": refusal, "code": refusal.status.name, "reason": refusal.reason, **more}
    )


def handshake(credentials: Callable[[Scene], grpc.ChannelCredentials]) -> Row:
    return Row(
        check="handshake",
        refusal=None,
        code="UNAVAILABLE",
        reason=None,
        refused=Sent(credentials=credentials),
    )


def peer(reason: str, **more: Any) -> Row:
    return row("check_peer", errors.Unidentified, reason=reason, **more)


def metadata(*pairs: tuple[str, str | bytes]) -> Callable[[Scene], Metadata]:
    return lambda scene: pairs


def token(reason: str, brought: Callable[[Scene], str], *, bound: bool = False, **more: Any) -> Row:
    """A row of a token that is refused; its caller is told no more than that."""
    return row(
        "check_token",
        errors.TokenRefused,
        logged=reason,
        **{
            "said": {"token": TokenRule(bound=bound)},
            "guard": lambda scene: {"tokens": scene.forge.tokens()},
            "refused": Sent(metadata=lambda scene: bearer(brought(scene))),
            "allowed": Sent(metadata=good_token),
            **more,
        },
    )


def good_token(scene: Scene) -> Metadata:
    """Bound to the gateway's certificate, whether that is asked or not."""
    return bearer(scene.forge.token(cnf=bound_to(scene.thumbprint("gateway"))))


def claims(check: str, reason: str, rule: TokenRule, **good: Any) -> Row:
    """A row of a token that is good and does not claim enough."""
    return row(
        check,
        errors.Forbidden,
        reason=reason,
        said={"token": rule},
        guard=lambda scene: {"tokens": scene.forge.tokens()},
        refused=Sent(metadata=lambda scene: bearer(scene.forge.token())),
        allowed=Sent(metadata=lambda scene: bearer(scene.forge.token(**good))),
    )


def message(check: str, refusal: type[errors.Refused], bad: bytes, **more: Any) -> tuple[Row, Row]:
    """Rows of a message that is refused: as the first one, and as a later one of a stream."""
    said = {"said": {"message": MessageBounds(max_bytes=100, max_items=10)}, "runs": Runs.STREAMS, **more}
    return (
        row(check, refusal, refused=Sent(asks=(bad,)), **said),
        row(check, refusal, refused=Sent(asks=(GOOD, bad, GOOD)), shapes=MANY_REQUESTS, **said),
    )
