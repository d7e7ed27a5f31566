"""What the control plane must not forget, and what two callers at once cannot both get. On both engines."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError

from hauberk.certs.authority import Authority
from hauberk.certs.errors import TokenExpired, TokenSpent, TokenUnknown
from hauberk.certs.identity import LeafIdentity, identify_certificate
from hauberk.certs.join import TokenRecord, mint
from hauberk.services.control import tables
from hauberk.services.control.errors import BoundElsewhere, NameRevoked, NotRevoked, NotYet
from hauberk.services.control.store import KEPT, Revocation, Store, StoreMismatch
from tests.control.core_mesh import CATALOG, PAYMENTS, TRUST_DOMAIN, spiffe

NOW = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
TTL = timedelta(minutes=10)
LIFETIME = timedelta(hours=1)


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    store = Store.open(database_url)
    yield store
    store.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("authority") / "ca", TRUST_DOMAIN, now=NOW)


@pytest.fixture
def leaf(authority: Authority) -> LeafIdentity:
    return issue(authority, "orders")


def issue(authority: Authority, name: str) -> LeafIdentity:
    svid = authority.issue(spiffe(name), lifetime=LIFETIME, now=NOW)
    return identify_certificate(svid.leaf)


def invited(store: Store, name: str, *serves: str, keep: bool = False) -> TokenRecord:
    _, record = mint(spiffe(name), serves=serves, ttl=TTL, now=NOW)
    store.invite(record, keep_bindings=keep, now=NOW)
    return record


def revoke(store: Store, name: str, reason: str = "lost") -> None:
    store.revoke(
        Revocation(spiffe_id=spiffe(name), reason=reason, revoked_by="operators/local", revoked_at=NOW)
    )


def reinstate(store: Store, name: str, now: datetime) -> None:
    store.reinstate(spiffe(name), now, lifetime=LIFETIME)


def bound(store: Store) -> dict[str, str]:
    return {contract: owner.name for contract, owner in store.bindings().items()}


def test_migrations_make_the_tables_that_the_code_uses(store: Store) -> None:
    with store.engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": "control_alembic_version", "compare_type": True}
        )
        assert compare_metadata(context, tables.metadata) == []


def test_an_empty_store_becomes_the_store_of_a_new_mesh(store: Store) -> None:
    store.claim("a" * 32, TRUST_DOMAIN, new=True)
    store.claim("a" * 32, TRUST_DOMAIN, new=False)
    with pytest.raises(StoreMismatch, match=f"of mesh {'a' * 32}.*the CA of mesh {'b' * 32}"):
        store.claim("b" * 32, TRUST_DOMAIN, new=False)


def test_an_emptied_store_does_not_pass_for_a_new_one(store: Store) -> None:
    with pytest.raises(StoreMismatch, match="has had one: restore"):
        store.claim("a" * 32, TRUST_DOMAIN, new=False)


def test_a_token_names_whom_it_invited_as_often_as_asked(store: Store) -> None:
    record = invited(store, "orders")
    assert store.invited(record.digest, NOW) == spiffe("orders")
    assert store.invited(record.digest, NOW) == spiffe("orders")


def test_a_token_is_spent_with_the_certificate_it_bought(store: Store, leaf: LeafIdentity) -> None:
    record = invited(store, "orders")
    store.enrol(record.digest, leaf, NOW)
    with pytest.raises(TokenSpent, match=r"orders was used at 2031-05-06T07:08:09Z"):
        store.invited(record.digest, NOW)
    with pytest.raises(TokenSpent):
        store.enrol(record.digest, leaf, NOW)
    assert len(store.holders(issued_before=NOW + TTL, now=NOW)) == 1


def test_of_two_that_race_for_one_token_one_wins(store: Store, authority: Authority) -> None:
    record = invited(store, "orders")
    leaves = [issue(authority, "orders") for _ in range(8)]

    def enrol(leaf: LeafIdentity) -> str:
        try:
            store.enrol(record.digest, leaf, NOW)
        except TokenSpent:
            return "spent"
        return "enrolled"

    with ThreadPoolExecutor(8) as pool:
        results = sorted(pool.map(enrol, leaves))
    assert results == ["enrolled"] + ["spent"] * 7
    assert len(store.holders(issued_before=NOW + TTL, now=NOW)) == 1


def test_a_token_ends_at_its_time_to_the_second(store: Store, leaf: LeafIdentity) -> None:
    record = invited(store, "orders")
    assert store.invited(record.digest, NOW + TTL - timedelta(microseconds=1)) == spiffe("orders")
    for ask in (
        lambda now: store.invited(record.digest, now),
        lambda now: store.enrol(record.digest, leaf, now),
    ):
        with pytest.raises(TokenExpired, match=r"expired at 2031-05-06T07:18:09Z"):
            ask(NOW + TTL)


def test_a_token_of_another_name_buys_nothing(store: Store, authority: Authority) -> None:
    record = invited(store, "payments")
    with pytest.raises(TokenUnknown):
        store.enrol(record.digest, issue(authority, "orders"), NOW)
    assert store.invited(record.digest, NOW) == spiffe("payments")


def test_a_certificate_that_is_not_remembered_leaves_the_token_unspent(
    store: Store, leaf: LeafIdentity
) -> None:
    store.issued(leaf, NOW)
    record = invited(store, "orders")
    with pytest.raises(Exception, match=r"(?i)unique|duplicate"):
        store.enrol(record.digest, leaf, NOW)  # the serial is taken
    assert store.invited(record.digest, NOW) == spiffe("orders")


def test_the_token_itself_is_nowhere_in_the_store(store: Store) -> None:
    token, record = mint(spiffe("orders"), serves=(), ttl=TTL, now=NOW)
    store.invite(record, keep_bindings=False, now=NOW)
    with store.engine.connect() as connection:
        rows = repr(connection.execute(select(tables.join_tokens)).all())
    assert token not in rows
    assert token.removeprefix("hbk1.") not in rows


def test_old_tokens_and_certificates_are_forgotten_after_a_day(store: Store, authority: Authority) -> None:
    record = invited(store, "orders")
    store.issued(issue(authority, "orders"), NOW)
    later = NOW + KEPT + timedelta(hours=2)
    _, next_record = mint(spiffe("orders"), serves=(), ttl=TTL, now=later)
    store.invite(next_record, keep_bindings=False, now=later)
    store.issued(issue(authority, "orders"), later)
    with pytest.raises(TokenUnknown):
        store.invited(record.digest, later)
    with store.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM svids")) == 1


def test_an_invitation_binds_exactly_its_contracts(store: Store) -> None:
    invited(store, "orders", CATALOG, PAYMENTS)
    assert bound(store) == {CATALOG: "orders", PAYMENTS: "orders"}
    invited(store, "orders", PAYMENTS)
    assert bound(store) == {PAYMENTS: "orders"}
    invited(store, "orders")
    assert bound(store) == {}


def test_a_token_for_a_restart_leaves_the_bindings_alone(store: Store) -> None:
    invited(store, "orders", CATALOG)
    invited(store, "orders", keep=True)
    assert bound(store) == {CATALOG: "orders"}


def test_a_contract_of_another_name_is_refused_and_nothing_changes(store: Store) -> None:
    invited(store, "catalog", CATALOG)
    with pytest.raises(BoundElsewhere, match=f"{CATALOG} is bound to {spiffe('catalog')}"):
        invited(store, "thief", PAYMENTS, CATALOG)
    assert bound(store) == {CATALOG: "catalog"}


def test_of_two_that_race_for_one_contract_one_wins(store: Store) -> None:
    def invite(name: str) -> str:
        try:
            invited(store, name, CATALOG)
        except (BoundElsewhere, IntegrityError) as error:  # PostgreSQL may tell by the key
            return type(error).__name__
        return name

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(invite, ["a", "b", "c", "d"]))
    [winner] = [result for result in results if result in "abcd"]
    assert bound(store) == {CATALOG: winner}


def test_a_revoked_name_is_refused_everywhere_and_frees_its_contracts(
    store: Store, leaf: LeafIdentity
) -> None:
    record = invited(store, "orders", CATALOG)
    revoke(store, "orders")
    assert store.revoked() == {str(spiffe("orders"))}
    assert bound(store) == {}
    for attempt in (
        lambda: store.invited(record.digest, NOW),
        lambda: store.enrol(record.digest, leaf, NOW),
        lambda: store.issued(leaf, NOW),
        lambda: invited(store, "orders"),
    ):
        with pytest.raises(NameRevoked, match=r"orders was revoked at 2031-05-06T07:08:09Z"):
            attempt()
    assert len(store.holders(issued_before=NOW + TTL, now=NOW)) == 0


def test_a_name_is_revoked_once_and_the_first_reason_stays(store: Store) -> None:
    revoke(store, "orders", "stolen laptop")
    revoke(store, "orders", "again")
    with store.engine.connect() as connection:
        assert connection.scalars(select(tables.revocations.c.reason)).all() == ["stolen laptop"]


def test_holders_are_those_of_before_that_still_live(store: Store, authority: Authority) -> None:
    for _ in range(2):
        store.issued(issue(authority, "orders"), NOW)
    store.issued(issue(authority, "gateway"), NOW)
    store.issued(issue(authority, "payments"), NOW + timedelta(minutes=5))
    activated, ends = NOW + timedelta(minutes=1), NOW + timedelta(hours=1)
    held = store.holders(issued_before=activated, now=activated)
    assert [(each.spiffe_id.name, each.certificates, each.until) for each in held] == [
        ("gateway", 1, ends),
        ("orders", 2, ends),
    ]
    assert store.holders(issued_before=activated, now=ends) == []


def test_the_revoked_hold_nothing(store: Store, authority: Authority) -> None:
    store.issued(issue(authority, "orders"), NOW)
    revoke(store, "orders")
    assert store.holders(issued_before=NOW + TTL, now=NOW) == []


def test_a_revocation_is_taken_back_once_the_certificates_from_before_have_ended(
    store: Store, authority: Authority
) -> None:
    """Nothing that was refused is let in again: no certificate, and no token either."""
    leaf, ends = issue(authority, "orders"), NOW + timedelta(hours=1)
    store.issued(leaf, NOW)
    record = invited(store, "orders", CATALOG)
    revoke(store, "orders")
    with pytest.raises(NotYet, match=r"may still be valid: reinstate it after 2031-05-06T08:08:09Z"):
        reinstate(store, "orders", ends - timedelta(seconds=1))
    assert store.revoked() == {str(spiffe("orders"))}
    reinstate(store, "orders", ends)
    assert store.revoked() == frozenset()
    assert bound(store) == {}
    with pytest.raises(TokenUnknown):
        store.invited(record.digest, NOW)
    assert store.invited(invited(store, "orders").digest, NOW) == spiffe("orders")


def test_a_certificate_that_the_store_does_not_know_is_waited_for_too(store: Store) -> None:
    """It was issued after the backup that this store was restored from, and revoked after the restore."""
    revoke(store, "orders")
    ends = NOW + LIFETIME
    with pytest.raises(NotYet, match=r"may still be valid: reinstate it after 2031-05-06T08:08:09Z"):
        reinstate(store, "orders", ends - timedelta(seconds=1))
    assert store.revoked() == {str(spiffe("orders"))}
    reinstate(store, "orders", ends)
    assert store.revoked() == frozenset()


def test_who_is_not_revoked_cannot_be_reinstated(store: Store) -> None:
    with pytest.raises(NotRevoked, match=r"orders is not revoked"):
        reinstate(store, "orders", NOW)


def test_everything_is_there_after_a_restart(database_url: str, authority: Authority) -> None:
    before = Store.open(database_url)
    record = invited(before, "orders", CATALOG)
    revoke(before, "payments")
    before.issued(issue(authority, "orders"), NOW)
    before.close()
    after = Store.open(database_url)
    assert after.invited(record.digest, NOW) == spiffe("orders")
    assert bound(after) == {CATALOG: "orders"}
    assert after.revoked() == {str(spiffe("payments"))}
    assert len(after.holders(issued_before=NOW + TTL, now=NOW)) == 1
    after.close()
