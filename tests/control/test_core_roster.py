"""Leases, graces and versions: what is listed when, by a clock that tests move."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from hauberk.interceptors.policy import Policy, callers
from hauberk.services.control.contracts import Announced
from hauberk.services.control.errors import (
    AddressTaken,
    NameRevoked,
    NotBound,
    ReplicaTaken,
    TooManyVersions,
)
from hauberk.services.control.publish import Publisher
from hauberk.services.control.roster import MAX_MISSED, MAX_VERSIONS, RESTORED_GRACE_S, Lease, Roster, State
from hauberk.services.control.snapshot import Contract, Replica, Snapshot, Status
from tests.control.core_mesh import TRUST_DOMAIN, spiffe
from tests.control.test_xds_publish import FakeClock

SERVICE = "p.S"
BOUND = {SERVICE: spiffe("orders"), "p.Other": spiffe("payments")}
ENDS = datetime(2031, 1, 1, tzinfo=UTC)


def announced(version: str = "v1", service: str = SERVICE) -> Announced:
    policy = Policy(method=f"/{service}/Do", callers=callers("gateway"))
    return Announced(Contract(service=service, methods={"Do": policy}, version=version), b"")


def replica(number: str = "1", *, port: int = 4001, version: str = "v1", name: str = "orders") -> Replica:
    service = {owner.name: service for service, owner in BOUND.items()}[name]
    return Replica(
        spiffe_id=spiffe(name),
        replica=number,
        address=f"127.0.0.1:{port}",
        status=Status.SERVING,
        agent="test",
        svid_expires_at=ENDS,
        contracts=(service,),
        policy_versions={service: version},
    )


class Stage:
    """A roster on a fake clock, and what callers are told of it."""

    def __init__(self, restored: State = State()) -> None:  # noqa: B008 - immutable
        self.clock = FakeClock()
        self.grace_s = 3.0
        self.publisher = Publisher(Snapshot.of(TRUST_DOMAIN, ()), clock=self.clock)
        self.roster = Roster(
            self.publisher,
            bindings=BOUND,
            revoked=frozenset(),
            restored=restored,
            grace_s=lambda: self.grace_s,
            missed_s=3600.0,
            clock=self.clock,
        )

    def take(self, number: str = "1", *, version: str = "v1", port: int = 4001) -> Lease:
        return self.roster.take(replica(number, version=version, port=port), (announced(version),))

    def listed(self) -> list[str]:
        return [f"{each.spiffe_id.name}#{each.replica}" for each in self.roster.replicas()]

    def routed_by(self) -> list[str]:
        """Versions of the contracts callers are told of."""
        self.roster.flush()
        workloads = self.publisher.snapshots.value.workloads.values()
        return [contract.version for workload in workloads for contract in workload.contracts]


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_a_lease_that_breaks_lasts_three_seconds_more(stage: Stage) -> None:
    lease = stage.take()
    stage.roster.leave(lease)
    stage.clock.advance(2999)
    assert stage.listed() == ["orders#1"]
    stage.clock.advance(1)
    assert stage.listed() == []


def test_a_grace_that_grows_holds_for_those_who_are_gone_already(stage: Stage) -> None:
    """Our clock was set just after their streams had ended: it may be us who keep them away."""
    stage.roster.leave(stage.take())
    stage.clock.advance(1000)
    stage.grace_s = 300.0
    stage.clock.advance(2000)
    assert stage.listed() == ["orders#1"]
    stage.grace_s = 3.0
    stage.clock.advance(297_000)
    assert stage.listed() == []


def test_a_grace_that_has_grown_counts_from_the_end_of_the_stream(stage: Stage) -> None:
    stage.roster.leave(stage.take())
    stage.grace_s = 300.0
    stage.clock.advance(3000)
    stage.clock.advance(296_999)
    assert stage.listed() == ["orders#1"]
    stage.clock.advance(1)
    assert stage.listed() == []


def test_who_has_not_come_back_may_live_until_its_certificates_have_ended(stage: Stage) -> None:
    stage.take("1", port=4001)
    stage.roster.leave(stage.take("2", port=4002))
    stage.clock.advance(3000)
    assert stage.listed() == ["orders#1"]
    assert stage.roster.processes(spiffe("orders")) == 2
    stage.roster.leave(stage.take("2", port=4002))
    assert stage.roster.processes(spiffe("orders")) == 2, "it is counted once when it is back"
    stage.clock.advance(3000)
    stage.clock.advance(3_599_999)
    assert stage.roster.processes(spiffe("orders")) == 2
    stage.clock.advance(1)
    assert stage.roster.processes(spiffe("orders")) == 1
    leaving = stage.take("2", port=4002)
    stage.roster.report(leaving, Status.DRAINING)
    stage.roster.leave(leaving)
    assert stage.roster.processes(spiffe("orders")) == 1, "who says that it leaves is not missed"


def test_those_who_are_missed_are_bounded(stage: Stage) -> None:
    for number in range(MAX_MISSED + 3):
        stage.roster.leave(stage.take(str(number), port=2000 + number))
    stage.clock.advance(3000)
    assert stage.listed() == []
    assert stage.roster.processes(spiffe("orders")) == MAX_MISSED
    stage.clock.advance(3_600_000)
    assert stage.roster.processes(spiffe("orders")) == 0


def test_a_new_lease_within_the_grace_keeps_the_replica(stage: Stage) -> None:
    stage.roster.leave(stage.take())
    stage.clock.advance(2999)
    stage.take()
    stage.clock.advance(60_000)
    assert stage.listed() == ["orders#1"]


def test_a_draining_replica_leaves_with_its_lease(stage: Stage) -> None:
    lease = stage.take()
    stage.roster.report(lease, Status.DRAINING)
    assert stage.roster.replicas()[0].status is Status.DRAINING
    stage.roster.leave(lease)
    assert stage.listed() == []


def test_an_older_lease_says_and_ends_nothing_any_more(stage: Stage) -> None:
    old = stage.take()
    stage.take()
    assert old.end == "taken over"
    assert stage.roster.report(old, Status.DRAINING) is None
    stage.roster.leave(old)
    stage.clock.advance(60_000)
    assert stage.listed() == ["orders#1"]
    assert stage.roster.replicas()[0].status is Status.SERVING


def test_who_is_ended_is_told_once_and_why(stage: Stage) -> None:
    lease = stage.take()
    told: list[str | None] = []
    lease.on_end = lambda: told.append(lease.end)
    stage.roster.revoke(spiffe("orders"), {})
    stage.roster.close()
    assert told == ["revoked"]


def test_a_revoked_name_is_gone_from_callers_without_delay(stage: Stage) -> None:
    stage.take()
    stage.roster.flush()
    assert list(stage.publisher.snapshots.value.workloads) == ["orders"]
    stage.roster.revoke(spiffe("orders"), {})
    assert stage.publisher.snapshots.value.workloads == {}
    with pytest.raises(NameRevoked):
        stage.take()


def test_an_unbound_name_is_not_listed(stage: Stage) -> None:
    with pytest.raises(NotBound, match=r"hauberk invite payments --serves p\.S"):
        stage.roster.take(replace(replica(), spiffe_id=spiffe("payments")), (announced(),))
    assert stage.listed() == []


def test_an_address_is_refused_while_its_holder_lives_and_free_once_it_lapsed(stage: Stage) -> None:
    holder = stage.take("1")
    with pytest.raises(AddressTaken, match=r"orders#1, which is alive"):
        stage.take("2")
    stage.roster.leave(holder)
    stage.take("2")
    assert stage.listed() == ["orders#2"]


def test_a_replica_is_not_ousted_by_another_process_of_its_name(stage: Stage) -> None:
    lease = stage.take("1", port=1)
    with pytest.raises(ReplicaTaken, match=r"orders#1 is alive at 127\.0\.0\.1:1: .* HAUBERK_REPLICA"):
        stage.take("1", port=2)
    stage.roster.leave(lease)
    stage.take("1", port=2)
    assert stage.listed() == ["orders#1"]


def test_callers_are_routed_by_the_version_seen_first_last(stage: Stage) -> None:
    """An old replica that renews its lease in the middle of a rollout does not turn the routes back."""
    stage.take("1", version="v1", port=1)
    stage.take("2", version="v2", port=2)
    assert stage.routed_by() == ["v2"]
    stage.take("1", version="v1", port=1)
    assert stage.routed_by() == ["v2"]
    assert [each.contract.version for _, each in stage.roster.contracts()] == ["v1", "v2"]


def test_a_rollback_is_a_new_version(stage: Stage) -> None:
    for version in ("v1", "v2"):
        stage.take("1", version=version, port=1)
    stage.take("2", version="v2", port=2)
    stage.take("1", version="v1", port=1)
    assert stage.routed_by() == ["v1"]


def test_a_version_that_nobody_enforces_is_forgotten(stage: Stage) -> None:
    stage.take("1", version="v1")
    stage.take("1", version="v2")
    assert [each.contract.version for _, each in stage.roster.contracts()] == ["v2"]


def test_versions_alive_are_bounded_and_one_that_ends_makes_room(stage: Stage) -> None:
    leases = [stage.take(f"{n}", version=f"v{n}", port=4000 + n) for n in range(1, MAX_VERSIONS + 1)]
    with pytest.raises(TooManyVersions, match=r"20 versions of p\.S are alive"):
        stage.take("new", version="new", port=5000)
    stage.take("more", version="v1", port=5001)
    stage.roster.leave(leases[1])
    stage.clock.advance(3000)
    stage.take("new", version="new", port=5000)
    assert "orders#new" in stage.listed()


def test_the_last_version_stays_for_its_route(stage: Stage) -> None:
    lease = stage.take()
    stage.roster.report(lease, Status.DRAINING)
    stage.roster.leave(lease)
    assert stage.routed_by() == ["v1"]


def test_what_is_restored_is_listed_until_it_has_had_time_to_come_back() -> None:
    both = (replica("1"), replica("2", port=4002))
    stage = Stage(State(both, ((spiffe("orders"), announced()),)))
    assert stage.listed() == ["orders#1", "orders#2"]
    stage.clock.advance(5000)
    stage.take("1")
    stage.clock.advance(int(RESTORED_GRACE_S * 1000) - 5000)
    assert stage.listed() == ["orders#1"]


def test_what_is_restored_but_no_longer_bound_is_left_out() -> None:
    thief = replace(replica(), spiffe_id=spiffe("thief"))
    stage = Stage(State((thief,), ((spiffe("thief"), announced()),)))
    assert stage.listed() == []
    assert stage.routed_by() == []


def test_closing_ends_leases_and_drops_nothing(stage: Stage) -> None:
    lease = stage.take()
    stage.roster.close()
    assert lease.end == "stopping"
    stage.roster.leave(lease)
    stage.clock.advance(60_000)
    assert stage.listed() == ["orders#1"]
    assert [each.replica for each in stage.roster.state.value.replicas] == ["1"]
