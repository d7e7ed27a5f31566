"""Whatever is asked, published and answered in any order, a client ends with exactly what it may have."""

from collections import deque

from hypothesis import example, given, settings
from hypothesis import strategies as st

from hauberk.protos.third_party.envoy.service.discovery.v3.discovery_pb2 import DiscoveryResponse
from hauberk.services.control.snapshot import Workload
from hauberk.services.control.xds.resource import Resource, ResourceType
from tests.control.xds_mesh import contract, spiffe, workload
from tests.control.xds_peer import HERE, Peer, names

NAMES = ("mesh", "a", "b", "unknown")
KINDS = st.sampled_from(list(ResourceType))


@st.composite
def workloads(draw: st.DrawFn) -> list[Workload]:
    """Some of a and b, each open to the gateway or to somebody else, with up to two replicas."""
    listed = []
    for name in draw(st.sets(st.sampled_from("ab"))):
        service = contract(
            f"pkg.{name.upper()}", Do=draw(st.sampled_from([["gateway"], ["gateway"], ["other"]]))
        )
        ports = draw(st.sets(st.integers(1, 3), max_size=2))
        listed.append(workload(name, service, at=[f"127.0.0.1:{port}" for port in sorted(ports)]))
    return listed


STEPS = st.one_of(
    st.tuples(st.just("publish"), workloads()),
    st.tuples(st.just("ask"), st.tuples(KINDS, st.sets(st.sampled_from(NAMES)))),
    st.tuples(st.sampled_from(["send", "take", "take and reject"]), st.none()),
)


class Cache:
    """What a client keeps: the latest of each name. It ignores deletions, and forgets what it gave up."""

    def __init__(self) -> None:
        self.peer = Peer()
        self.peer.show(*(workload(name, contract(f"pkg.{name}", Do=["gateway"]), at=[HERE]) for name in "ab"))
        self.held: dict[ResourceType, dict[str, bytes]] = {kind: {} for kind in ResourceType}
        self.nonces = dict.fromkeys(ResourceType, "")
        self.under_way: deque[DiscoveryResponse] = deque()

    def ask(self, kind: ResourceType, wanted: set[str]) -> None:
        self.peer.ask(kind, *sorted(wanted), nonce=self.nonces[kind])
        self.held[kind] = {name: body for name, body in self.held[kind].items() if name in wanted}

    def send(self) -> bool:
        """Let the control plane send what is due next. Until it is taken, requests may cross it."""
        response = self.peer.next()
        if response is not None:
            self.under_way.append(response)
        return response is not None

    def take(self, *, reject: bool = False) -> None:
        if not self.under_way:
            return
        response = self.under_way.popleft()
        kind = ResourceType(response.type_url)
        self.nonces[kind] = response.nonce
        for name, packed in zip(names(response), response.resources, strict=True):
            if name in self.peer.names[kind]:
                self.held[kind][name] = packed.value
        self.peer.answer(response, error="no" if reject else "")


ENDPOINTS = ResourceType.ENDPOINTS
GIVEN_UP_AND_ASKED_FOR_AGAIN: list[tuple[str, object]] = [
    ("ask", (ENDPOINTS, {"a"})),
    ("send", None),
    ("publish", []),
    ("ask", (ENDPOINTS, set())),
    ("ask", (ENDPOINTS, {"a"})),
]
"""Before the response with its endpoints is taken, which are no more by then."""


@example(GIVEN_UP_AND_ASKED_FOR_AGAIN)
@settings(max_examples=300, deadline=None)
@given(st.lists(STEPS, min_size=5, max_size=30))
def test_a_client_converges_and_then_it_is_quiet(steps: list[tuple[str, object]]) -> None:
    cache = Cache()
    for step, given_ in steps:
        match step, given_:
            case "publish", list(listed):
                cache.peer.show(*listed)
            case "ask", (ResourceType() as kind, set(wanted)):
                cache.ask(kind, wanted)
            case "send", _:
                cache.send()
            case _:
                cache.take(reject=step == "take and reject")
    sent = 0
    while cache.under_way or cache.send():
        cache.take()
        sent += 1
        assert sent <= len(steps) + 2 * len(ResourceType), "it is told the same over and over"
    resources = cache.peer.resources
    view = resources.view(spiffe("gateway"))
    for kind, asked in cache.peer.names.items():
        for name in asked:
            resource = resources.find(view, kind, name)
            if resource is not None:
                assert cache.held[kind][name] == content(resource)
            elif kind is ResourceType.ENDPOINTS and name in cache.held[kind]:
                assert b"127.0.0.1" not in cache.held[kind][name]


def content(resource: Resource) -> bytes:
    value: bytes = DiscoveryResponse.FromString(resource.body).resources[0].value
    return value
