"""One connected xDS client: what it asked for, what it was sent, what it accepted, what it rejected and why.

State of the world, aggregated: each response of a type has a nonce, each request of that type echoes the last
one it saw, and is an ACK or, with `error_detail`, a NACK (xDS transport protocol, "ACK/NACK and resource type
instance version"). No networking here: requests go in, serialised responses come out.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from hauberk.certs.identity import SpiffeId
from hauberk.protos.hauberk.control.v1 import admin_pb2
from hauberk.protos.third_party.envoy.config.core.v3.base_pb2 import Node
from hauberk.protos.third_party.envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest
from hauberk.services.control.errors import RequestRefused
from hauberk.services.control.xds.clusters import load_assignment
from hauberk.services.control.xds.resource import Resource, ResourceType, response, version_of
from hauberk.services.control.xds.view import Resources, View

MAX_NAMES = 2000
"""Of one type, on one stream."""
MAX_NAME_LENGTH = 512
MAX_NAMES_TEXT = 64 * 1024
"""Characters of all names together: one identity may have hundreds of streams, and each keeps its own."""
MAX_TEXT = 4096
"""Characters kept of what a client says when it rejects."""
MAX_UNANSWERED = 32
"""Responses of one type whose answer is remembered to be due."""

_EVERYTHING = "*"


@dataclass(frozen=True, slots=True)
class Rejection:
    """A client's last NACK of one type."""

    version: str
    text: str
    at: datetime


class Subscription:
    """What one client holds of one resource type."""

    def __init__(self, kind: ResourceType) -> None:
        self.kind = kind
        self.names: frozenset[str] = frozenset()
        self.version_sent = ""
        self.version_acked = ""
        self.rejection: Rejection | None = None
        self._everything = False
        self._named = False
        self._sent: dict[str, str] = {}
        self._crossed: frozenset[str] = frozenset()
        """Names given up while a response was under way that may hold them, and not sent again since: the
        client may come to hold them.
        """
        self._nonce = 0
        self._unanswered: dict[str, str] = {}
        self._answer_due = False
        self._asked = False

    def receive(self, request: DiscoveryRequest, now: datetime) -> None:
        """Take an ACK, a NACK or a change of names.

        One that crossed a later response of ours changes no names: the client says them again when it answers
        that one. One without a nonce answers nothing, and asks.
        """
        if self._asked:
            self._record(request, now)
        if not self._asked or request.response_nonce in ("", self._last_nonce):
            self._subscribe(request.resource_names)
        self._asked = True

    def response(self, resources: Resources, view: View, control_plane: str) -> bytes | None:
        """The next response, if one is due: asked for, or something it holds is no longer so."""
        if not self._asked:
            return None
        held = self._desired(resources, view)
        changed = [each for each in held if self._sent.get(each.name) != each.version]
        gone = self._sent.keys() - {each.name for each in held}
        if not (self._answer_due or changed or gone):
            return None
        self._answer_due = False
        self._nonce += 1
        self._sent = {each.name: each.version for each in held}
        self._crossed -= self._sent.keys()
        self.version_sent = version_of(held)
        self._unanswered[self._last_nonce] = self.version_sent
        if len(self._unanswered) > MAX_UNANSWERED:
            del self._unanswered[next(iter(self._unanswered))]
        return response(
            self.kind,
            held if self.kind.whole else changed,
            version=self.version_sent,
            nonce=self._last_nonce,
            control_plane=control_plane,
        )

    def describe(self) -> admin_pb2.TypeState:
        state = admin_pb2.TypeState(
            type=self.kind.short,
            names=sorted(self.names) or ([_EVERYTHING] if self._everything else []),
            version_sent=self.version_sent,
            version_acked=self.version_acked,
        )
        if self.rejection is not None:
            state.version_nacked = self.rejection.version
            state.nack_detail = self.rejection.text
            state.nacked_at.FromDatetime(self.rejection.at)
        return state

    @property
    def _last_nonce(self) -> str:
        return str(self._nonce) if self._nonce else ""

    def _record(self, request: DiscoveryRequest, now: datetime) -> None:
        nonce = request.response_nonce
        version = self._unanswered.get(nonce)
        if version is None:
            return
        while next(iter(self._unanswered)) != nonce:
            del self._unanswered[next(iter(self._unanswered))]
        del self._unanswered[nonce]
        if request.HasField("error_detail"):
            self.rejection = Rejection(version, _shown(request.error_detail.message[:MAX_TEXT]), now)
        else:
            self.version_acked = version
            self.rejection = None

    def _subscribe(self, names: Iterable[str]) -> None:
        """No names mean everything, for the types that allow it, until names were given once on this stream.

        From then on they mean nothing. Source: xDS transport protocol, "How the client specifies what
        resources to return".
        """
        asked = frozenset(names)
        everything = self.kind.whole and (_EVERYTHING in asked or not (asked or self._named))
        asked -= {_EVERYTHING}
        self._named = self._named or bool(asked)
        if not self._asked or asked - self.names or (everything and not self._everything):
            self._answer_due = True
        self.names, self._everything = asked, everything
        if not everything:
            if self._unanswered:
                self._crossed |= self._sent.keys() - asked
            self._sent = {name: version for name, version in self._sent.items() if name in asked}

    def _desired(self, resources: Resources, view: View) -> list[Resource]:
        """All that is asked for and may be had.

        Endpoints it was sent and may have no longer become none, in so many words: what a response of theirs
        lacks stays as it was.
        """
        names = self.names | view.names(self.kind) if self._everything else self.names
        found = [resources.find(view, self.kind, name) for name in sorted(names)]
        held = [each for each in found if each is not None]
        if self.kind is ResourceType.ENDPOINTS:
            gone = (self._sent.keys() | self._crossed & self.names) - {each.name for each in held}
            held.extend(Resource.of(name, load_assignment(name, ())) for name in sorted(gone))
        return held


class Client:
    """One ADS stream of one identity."""

    def __init__(self, caller: SpiffeId, connected_at: datetime) -> None:
        self.caller = caller
        self._connected_at = connected_at
        self._node: Node | None = None
        self._subscriptions = {kind: Subscription(kind) for kind in ResourceType}

    def receive(self, request: DiscoveryRequest, now: datetime) -> ResourceType:
        """Take one request; returns the type it was about. Raises RequestRefused."""
        if self._node is None:
            if not request.HasField("node"):
                raise RequestRefused("the first request of a stream carries no node", reason="NODE_MISSING")
            self._node = _brief(request.node)
        kind = _kind(request.type_url)
        _check_names(request.resource_names)
        self._subscriptions[kind].receive(request, now)
        return kind

    def next_response(self, resources: Resources, control_plane: str) -> bytes | None:
        """The next response due, serialised and counted as sent; None if it has what it asked for."""
        view = resources.view(self.caller)
        for subscription in self._subscriptions.values():
            body = subscription.response(resources, view, control_plane)
            if body is not None:
                return body
        return None

    def names(self, kind: ResourceType) -> frozenset[str]:
        """What it asks for by name."""
        return self._subscriptions[kind].names

    def describe(self) -> admin_pb2.XdsClient:
        node = self._node or Node()
        client = admin_pb2.XdsClient(
            spiffe_id=str(self.caller),
            node_id=node.id,
            user_agent=node.user_agent_name,
            user_agent_version=node.user_agent_version,
            types=[each.describe() for each in self._subscriptions.values() if each.version_sent],
        )
        client.connected_at.FromDatetime(self._connected_at)
        return client


def _brief(node: Node) -> Node:
    """What we show of a client's own words about itself; they decide nothing."""
    return Node(
        id=_shown(node.id[:MAX_NAME_LENGTH]),
        user_agent_name=_shown(node.user_agent_name[:MAX_NAME_LENGTH]),
        user_agent_version=_shown(node.user_agent_version[:MAX_NAME_LENGTH]),
    )


def _shown(text: str) -> str:
    """A client's own words without line ends and what else a terminal would obey."""
    return "".join(character if character.isprintable() else " " for character in text)


def _kind(type_url: str) -> ResourceType:
    try:
        return ResourceType(type_url)
    except ValueError:
        raise RequestRefused(
            f"type is not served here: {type_url!r:.199}", reason="RESOURCE_TYPE_UNKNOWN"
        ) from None


def _check_names(names: Iterable[str]) -> None:
    listed = list(names)
    if len(listed) > MAX_NAMES:
        raise RequestRefused(f"{len(listed)} resource names, at most {MAX_NAMES}", reason="TOO_MANY_NAMES")
    if (characters := sum(map(len, listed))) > MAX_NAMES_TEXT:
        raise RequestRefused(
            f"resource names of {characters} characters together, at most {MAX_NAMES_TEXT}",
            reason="TOO_MANY_NAMES",
        )
    longest = max(map(len, listed), default=0)
    if longest > MAX_NAME_LENGTH:
        raise RequestRefused(
            f"resource name of {longest} characters, at most {MAX_NAME_LENGTH}", reason="NAME_TOO_LONG"
        )
