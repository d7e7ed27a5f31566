"""The guard before a server's methods."""

from collections.abc import Callable, Mapping
from typing import Any

from hauberk.certs.watch import Watch
from hauberk.interceptors.audit import AuditLog
from hauberk.interceptors.edge import Door, Edge
from hauberk.interceptors.errors import PolicyError, Refused
from hauberk.interceptors.in_flight import PER_PEER, InFlight
from hauberk.interceptors.overload import MOST, Overload
from hauberk.interceptors.overrides import NONE, Overrides
from hauberk.interceptors.peer import PeerCheck, Trust
from hauberk.interceptors.pipeline import Pipeline
from hauberk.interceptors.policy import BUILT_IN, Policy
from hauberk.interceptors.quota import Quotas
from hauberk.interceptors.records import Records
from hauberk.interceptors.servant import RpcMethod, Servant, read_type
from hauberk.interceptors.standing import Standing
from hauberk.interceptors.token_check import Tokens

OTHER = "_OTHER"
"""The method of a call to none of ours (OpenTelemetry semantic conventions, `rpc.method`)."""
FIRST_MESSAGE_S = 10.0
"""How long the message of a call without a deadline may take to arrive."""


class Guard:
    """Serves the methods added to it, each behind its policy; everything else is refused.

    `serving.guarded_server` makes the server around it.
    """

    def __init__(
        self,
        trust: Watch[Trust],
        *,
        trust_domain: str,
        in_flight_per_peer: int = PER_PEER,
        records: Records | None = None,
        audit: AuditLog | None = None,
        trace_ratio: float = 1.0,
        first_message_s: float = FIRST_MESSAGE_S,
        in_flight_most: int = MOST,
        peer_check: PeerCheck | None = None,
        tokens: Tokens | None = None,
        quotas: Quotas | None = None,
    ) -> None:
        """`trust_domain` is the mesh's own: bare paths in `callers` belong to it. Without `tokens`, no method
        that demands one is served. At most `in_flight_most` calls are served at once, `in_flight_per_peer` of
        one peer.
        """
        self.in_flight = InFlight(in_flight_per_peer)
        self.overload = Overload(in_flight_most)
        self._quotas = quotas or Quotas()
        self._peer_check = peer_check or PeerCheck(trust)
        self._trust_domain = trust_domain
        self._tokens = tokens
        self._audit = audit
        self.standing = self._new_standing(trust, self._peer_check)
        if records is not None:
            records.serve(self.standing.calls)
        self._door = Door(self.in_flight, self.standing, records, first_message_s, trace_ratio)
        self._edges: dict[str, Any] = {}
        self._declared: dict[str, tuple[RpcMethod, Policy]] = {}
        """Each method as it was added, and its policy as the contract has it."""
        self._overrides = NONE
        self._policies: dict[str, Policy] = {}
        """As they are enforced."""
        self._let_in: int | None = None
        unknown = Pipeline.of_unknown(peer_check=self._peer_check, in_flight=self.in_flight)
        self.unknown = self._refuses(unknown)
        """What serves every call to no method of ours."""

    @property
    def edges(self) -> Mapping[str, Any]:
        """What serves each guarded method, by path."""
        return self._edges

    @property
    def largest_message(self) -> int:
        """Bytes of the largest message that one of the methods lets in."""
        return max((policy.message.max_bytes for policy in self._policies.values()), default=0)

    def opened(self, largest_message: int) -> None:
        """The server has started, and core lets in no message of more than so many bytes from now on."""
        self._let_in = largest_message

    @property
    def policies(self) -> Mapping[str, Policy]:
        """What is enforced of each method, by path."""
        return self._policies

    @property
    def draining(self) -> bool:
        """Whether new calls are refused with UNAVAILABLE, while those in flight finish."""
        return self._door.draining

    @draining.setter
    def draining(self, value: bool) -> None:
        self._door.draining = value

    @property
    def closed(self) -> Refused | None:
        """Why no call may begin now; None: they may."""
        return self._door.closed

    @property
    def unfit(self) -> str:
        """Why our identity is of no use, so that new calls are refused; empty: it is good."""
        return self._door.unfit

    @unfit.setter
    def unfit(self, why: str) -> None:
        self._door.unfit = why

    def clear(self) -> None:
        """End every call being served with UNAVAILABLE, and refuse new ones so."""
        self._door.clear()

    @property
    def memory_short(self) -> bool:
        """Whether new calls are refused with UNAVAILABLE until there is memory for them."""
        return self._door.memory_short

    @memory_short.setter
    def memory_short(self, value: bool) -> None:
        self._door.memory_short = value

    def add(self, service: str, methods: Mapping[str, RpcMethod], policies: Mapping[str, Policy]) -> None:
        """Serve `service` (its full name), each method by its policy. Raises PolicyError naming the method.

        All or nothing: after a PolicyError none of the service's methods is served.
        """
        compiled: dict[str, Any] = {}
        for name, method in methods.items():
            path = f"/{service}/{name}"
            if path in self._edges:
                raise PolicyError(f"method is served twice: {service}.{name}")
            policy = policies.get(name)
            if policy is None:
                raise PolicyError(f"method has no policy: {service}.{name}")
            compiled[path] = self._compile(path, method, policy)
        self._edges.update(compiled)
        for path in compiled:
            name = path.rpartition("/")[2]
            self._declared[path] = methods[name], policies[name]
            self._policies[path] = policies[name]

    def prepare(self, overrides: Overrides) -> Callable[[], None]:
        """What makes `overrides` the ones in force, and cannot fail: every method of theirs is compiled here.

        Raises PolicyError, and then nothing has changed. A call in flight keeps what it began with. Overrides
        of services that are not served here say nothing here.
        """
        served = {path.rpartition("/")[0][1:] for path in self._declared}
        in_force = overrides.of_services(served)
        here, before = in_force.by_method, self._overrides.by_method
        compiled: dict[str, Any] = {}
        policies: dict[str, Policy] = {}
        for path in here.keys() | before.keys():
            if path not in self._declared:
                raise PolicyError(f"override of {path}: its contract has no such method")
            if path in here and path in before and here[path].spelled == before[path].spelled:
                continue
            method, declared = self._declared[path]
            if declared.origin == BUILT_IN:
                raise PolicyError(f"override of {path}: what every server offers cannot be overridden")
            policy = policies[path] = overrides.over(declared)
            if self._let_in is not None and policy.message.max_bytes > self._let_in:
                raise PolicyError(
                    f"override of {path}: message.max_bytes: this server was started to take "
                    f"{self._let_in} bytes at most: restart it to take more"
                )
            compiled[path] = self._compile(path, method, policy)

        def adopt() -> None:
            self._edges.update(compiled)
            self._policies.update(policies)
            self._overrides = in_force

        return adopt

    def _compile(self, path: str, method: RpcMethod, policy: Policy) -> Any:
        pipeline = Pipeline.of(
            policy,
            peer_check=self._peer_check,
            in_flight=self.in_flight,
            quotas=self._quotas,
            trust_domain=self._trust_domain,
            tokens=self._tokens,
            audit=self._audit,
            request=read_type(method.request_deserializer),
        )
        return self._edge(path, method, pipeline)

    def _new_standing(self, trust: Watch[Trust], peer_check: PeerCheck) -> Any:
        return Standing(trust, peer_check)

    def _edge(self, path: str, method: RpcMethod, pipeline: Pipeline) -> Any:
        """What serves `method`."""
        servant = Servant.of(path, method, pipeline.policy)
        # Health and the like are asked just when there is no place.
        turns = None if pipeline.policy.origin == BUILT_IN else self.overload.turns(pipeline.policy)
        return Edge(self._door, self.standing, path, pipeline, servant, turns)

    def _refuses(self, pipeline: Pipeline) -> Any:
        """What stands before a pipeline that lets no call through: a status alone suits every shape."""
        return Edge(self._door, self.standing, OTHER, pipeline, Servant.nobody())
