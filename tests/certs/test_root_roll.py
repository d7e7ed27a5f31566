"""Promises of prepare, activate, retire: everybody who follows the bundle is served at every step."""

import os
from pathlib import Path

import pytest

from hauberk.certs.authority import Authority
from hauberk.certs.errors import AuthorityError, ChainError
from hauberk.certs.identity import SpiffeId
from hauberk.certs.roots import RootState
from tests.certs.forge import HOUR, NOW

ORDERS = SpiffeId.of("mesh.test", "orders")
STEPS = ("prepare", "activate", "retire")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "ca"


@pytest.fixture
def authority(folder: Path) -> Authority:
    return Authority.create(folder, "mesh.test", now=NOW)


def take(authority: Authority, *steps: str) -> None:
    for step in steps:
        getattr(authority, step)(NOW)


def states(authority: Authority) -> list[RootState]:
    return [root.state for root in authority.roots(NOW)]


def test_roll_goes_through_prepared_active_retiring(authority: Authority) -> None:
    (first,) = authority.roots(NOW)
    assert first.state is RootState.ACTIVE
    authority.prepare(NOW + HOUR)
    assert states(authority) == ["active", "prepared"]
    authority.activate(NOW + 2 * HOUR)
    assert states(authority) == ["retiring", "active"]
    assert [root.since for root in authority.roots(NOW)] == [NOW + 2 * HOUR, NOW + 2 * HOUR]
    authority.retire(NOW + 3 * HOUR)
    assert states(authority) == ["active"]
    assert authority.roots(NOW)[0].fingerprint != first.fingerprint


def test_old_and_new_svids_verify_with_the_bundle_of_every_step_until_retire(authority: Authority) -> None:
    before = authority.bundle
    old = authority.issue(ORDERS, lifetime=HOUR, now=NOW)
    authority.prepare(NOW)
    prepared = authority.bundle
    still_old = authority.issue(ORDERS, lifetime=HOUR, now=NOW)
    assert before.verify(still_old.chain, now=NOW), "what is prepared does not sign yet"
    authority.activate(NOW)
    new = authority.issue(ORDERS, lifetime=HOUR, now=NOW)
    for bundle in (prepared, authority.bundle):
        for svid in (old, still_old, new):
            assert bundle.verify(svid.chain, now=NOW).spiffe_id == ORDERS
            assert bundle.verify_leaf(svid.leaf, now=NOW).spiffe_id == ORDERS, "its intermediate is known"
    with pytest.raises(ChainError):
        before.verify(new.chain, now=NOW)
    authority.retire(NOW)
    assert authority.bundle.verify(new.chain, now=NOW).spiffe_id == ORDERS
    for svid in (old, still_old):
        with pytest.raises(ChainError, match="no trusted issuer known"):
            authority.bundle.verify(svid.chain, now=NOW)


@pytest.mark.parametrize("taken", range(4))
def test_roots_to_pin_are_those_of_the_bundle_at_every_step(
    folder: Path, authority: Authority, taken: int
) -> None:
    take(authority, *STEPS[:taken])
    assert (folder / "roots.pem").read_bytes() == authority.bundle.pem()


@pytest.mark.parametrize(
    ("taken", "step", "next_step"),
    [
        ((), "activate", "prepare"),
        ((), "retire", "prepare"),
        (("prepare",), "prepare", "activate"),
        (("prepare",), "retire", "activate"),
        (("prepare", "activate"), "prepare", "retire"),
        (("prepare", "activate"), "activate", "retire"),
        (STEPS, "activate", "prepare"),
        (STEPS, "retire", "prepare"),
    ],
)
def test_step_out_of_order_is_refused_and_names_the_next(
    folder: Path, authority: Authority, taken: tuple[str, ...], step: str, next_step: str
) -> None:
    take(authority, *taken)
    before, text = states(authority), (folder / "authority.json").read_bytes()
    with pytest.raises(AuthorityError, match=f"the next step is {next_step}"):
        take(authority, step)
    assert states(authority) == before
    assert (folder / "authority.json").read_bytes() == text


@pytest.mark.parametrize("restart_after", range(4))
def test_restart_in_the_middle_of_a_roll_changes_nothing(
    folder: Path, authority: Authority, restart_after: int
) -> None:
    take(authority, *STEPS[:restart_after])
    again = Authority.load(folder)
    assert again.roots(NOW) == authority.roots(NOW)
    assert again.bundle == authority.bundle
    svid = again.issue(ORDERS, lifetime=HOUR, now=NOW)
    assert authority.bundle.verify(svid.chain, now=NOW).spiffe_id == ORDERS
    take(again, *STEPS[restart_after:])
    assert states(again) == ["active"]


def test_three_rolls_leave_one_root_and_no_old_key(folder: Path, authority: Authority) -> None:
    take(authority, *STEPS * 3)
    assert states(authority) == ["active"]
    assert [path.parent.name for path in folder.rglob("*.key.pem")] == ["r000004"]
    assert Authority.load(folder).bundle == authority.bundle


def test_new_root_keeps_the_names_and_the_passphrase_of_the_old(tmp_path: Path) -> None:
    folder = tmp_path / "ca"
    authority = Authority.create(folder, "mesh.test", now=NOW, passphrase=b"secret", dns_names=["localhost"])
    take(authority, *STEPS)
    again = Authority.load(folder, b"secret")
    again.issue(again.control_id, lifetime=HOUR, now=NOW, dns_names=["localhost"])
    assert all(b"ENCRYPTED" in path.read_bytes() for path in folder.rglob("*.key.pem"))


def test_two_processes_cannot_roll_past_one_another(folder: Path, authority: Authority) -> None:
    other = Authority.load(folder)
    authority.prepare(NOW)
    with pytest.raises(AuthorityError, match="load it again"):
        other.prepare(NOW)
    again = Authority.load(folder)
    again.activate(NOW)
    assert states(again) == ["retiring", "active"]


def test_roll_waits_for_nobody_who_holds_the_folder(folder: Path, authority: Authority) -> None:
    with authority._files._lock(), pytest.raises(AuthorityError, match="another process is changing"):
        authority.prepare(NOW)
    authority.prepare(NOW)


@pytest.mark.parametrize("step", STEPS)
def test_failing_disk_leaves_the_step_untaken_and_takeable(
    folder: Path, authority: Authority, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(authority, *STEPS[: STEPS.index(step)])
    before, bundle = states(authority), authority.bundle

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(Exception, match="no space left on device"):
            take(authority, step)
    assert states(authority) == before
    assert authority.bundle == bundle
    assert Authority.load(folder).roots(NOW) == authority.roots(NOW)
    take(authority, step)


def test_expired_root_says_so(authority: Authority) -> None:
    (root,) = authority.roots(NOW)
    assert not root.expired
    assert authority.roots(root.not_after + HOUR)[0].expired
