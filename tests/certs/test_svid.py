"""Promises of certs/svid.py: a key and a chain that fit, or nothing."""

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from hauberk.certs.errors import SvidError, SvidExpired, SvidNotYetValid
from hauberk.certs.svid import BACK_DATED, Svid
from tests.certs import forge
from tests.certs.forge import HOUR, NOW

ROOT = forge.ca()
MIDDLE = forge.ca("middle", ROOT)
LEAF = forge.leaf(MIDDLE)
SECOND = timedelta(seconds=1)


def test_key_and_chain_that_fit_are_an_svid() -> None:
    svid = Svid.parse(LEAF.pem + MIDDLE.pem, LEAF.key_pem)
    assert str(svid.spiffe_id) == forge.OURS
    assert svid.leaf == LEAF.certificate
    assert svid.chain == (LEAF.certificate, MIDDLE.certificate)
    assert svid.expires_at == NOW + HOUR


def test_life_begins_when_it_was_made_and_not_at_the_back_dated_beginning() -> None:
    leaf = forge.leaf(ROOT, begins=NOW - BACK_DATED, ends=NOW + 20 * SECOND)
    svid = Svid.parse(leaf.pem, leaf.key_pem)
    assert svid.issued_at == NOW
    assert svid.lifetime == 20 * SECOND
    assert svid.remaining(NOW + 5 * SECOND) == 15 * SECOND
    assert svid.remaining(NOW + 21 * SECOND) == -SECOND


def test_another_key_is_refused() -> None:
    with pytest.raises(SvidError, match="do not belong together"):
        Svid.parse(LEAF.pem + MIDDLE.pem, forge.leaf(ROOT).key_pem)


@pytest.mark.parametrize(
    "chain",
    [MIDDLE.pem + LEAF.pem, LEAF.pem + ROOT.pem, LEAF.pem + forge.ca("middle").pem, LEAF.pem + LEAF.pem],
    ids=["ca first", "a link missing", "another of the same name", "itself twice"],
)
def test_chain_out_of_order_is_refused(chain: bytes) -> None:
    with pytest.raises(SvidError):
        Svid.parse(chain, LEAF.key_pem)


def test_chain_longer_than_any_we_verify_is_refused() -> None:
    signers = [ROOT]
    for number in range(4):
        signers.append(forge.ca(f"{number}", signers[-1]))
    leaf = forge.leaf(signers[-1])
    chain = b"".join(party.pem for party in (leaf, *reversed(signers)))
    with pytest.raises(SvidError, match="6 certificates"):
        Svid.parse(chain, leaf.key_pem)


@pytest.mark.parametrize("chain", [b"", b"junk", LEAF.key_pem], ids=["nothing", "junk", "a key"])
def test_what_is_no_chain_is_refused(chain: bytes) -> None:
    with pytest.raises(SvidError):
        Svid.parse(chain, LEAF.key_pem)


def test_leaf_that_names_no_workload_is_refused() -> None:
    leaf = forge.leaf(ROOT, names=[forge.dns("orders.mesh.test")])
    with pytest.raises(SvidError, match="0 uri names"):
        Svid.parse(leaf.pem, leaf.key_pem)


def test_key_that_is_not_p_256_is_refused() -> None:
    leaf = forge.leaf(ROOT, key=ec.generate_private_key(ec.SECP384R1()))
    with pytest.raises(SvidError, match="not ec p-256"):
        Svid.parse(leaf.pem, leaf.key_pem)


def test_dates_are_checked_when_asked() -> None:
    svid = Svid.parse(LEAF.pem, LEAF.key_pem)
    svid.check_dates(NOW)
    with pytest.raises(SvidExpired, match=r"orders expired at 2026-11-01T13:00:00Z"):
        svid.check_dates(NOW + HOUR + SECOND)
    with pytest.raises(SvidNotYetValid):
        svid.check_dates(NOW - HOUR - SECOND)


def test_no_secret_is_shown() -> None:
    svid = Svid.parse(LEAF.pem, LEAF.key_pem)
    assert "PRIVATE" not in repr(svid)
    assert "BEGIN" not in repr(svid)
