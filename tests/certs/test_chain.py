"""Promises of certs/chain.py, constraints.py and Bundle.verify, one a row of the corpus."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from hauberk.certs import chain as chains
from hauberk.certs.bundle import Bundle
from hauberk.certs.errors import ChainError
from tests.certs import forge
from tests.certs.chain_cases import CASES, Case
from tests.certs.forge import NOW, ca, leaf

SECOND = timedelta(seconds=1)


def bundle_of(case: Case) -> Bundle:
    anchors = {case.trust_domain: tuple(party.certificate for party in case.anchors)}
    if case.foreign_anchors:
        anchors["other.test"] = tuple(party.certificate for party in case.foreign_anchors)
    return Bundle(anchors, tuple(party.certificate for party in case.known))


@pytest.mark.parametrize("name", [name for name, make in CASES.items() if make().accepted])
def test_good_chain_is_accepted(name: str) -> None:
    case = CASES[name]()
    chain = [party.certificate for party in case.chain]
    identity = bundle_of(case).verify(chain, now=NOW)
    assert identity.certificate == chain[0]


@pytest.mark.parametrize("name", [name for name, make in CASES.items() if not make().accepted])
def test_bad_chain_is_refused_in_one_line(name: str) -> None:
    case = CASES[name]()
    with pytest.raises(ChainError) as refused:
        bundle_of(case).verify([party.certificate for party in case.chain], now=NOW)
    message = str(refused.value)
    assert message[0].islower()
    assert message.isprintable()


def test_leaf_alone_is_verified_through_known_intermediates_only() -> None:
    root = ca()
    middle = ca("middle", root)
    party = leaf(middle)
    anchors = {"mesh.test": (root.certificate,)}
    knowing, ignorant = Bundle(anchors, (middle.certificate,)), Bundle(anchors)
    assert str(knowing.verify_leaf(party.certificate, now=NOW).spiffe_id) == forge.OURS
    with pytest.raises(ChainError, match="no trusted issuer known"):
        ignorant.verify_leaf(party.certificate, now=NOW)


def test_first_and_last_second_of_a_life_count_and_no_other() -> None:
    root = ca(begins=NOW - forge.HOUR * 9, ends=NOW + forge.HOUR * 9)
    party = leaf(root)
    bundle = Bundle({"mesh.test": (root.certificate,)})
    begins, ends = party.certificate.not_valid_before_utc, party.certificate.not_valid_after_utc
    bundle.verify_leaf(party.certificate, now=begins)
    bundle.verify_leaf(party.certificate, now=ends)
    with pytest.raises(ChainError, match="begins at"):
        bundle.verify_leaf(party.certificate, now=begins - SECOND)
    with pytest.raises(ChainError, match="expired at"):
        bundle.verify_leaf(party.certificate, now=ends + SECOND)


def test_reason_names_what_is_wrong_and_not_that_something_is() -> None:
    root = ca()
    expired = ca("middle", root, ends=NOW - SECOND)
    bundle = Bundle({"mesh.test": (root.certificate,)})
    with pytest.raises(ChainError, match="'CN=middle' expired"):
        bundle.verify([leaf(expired).certificate, expired.certificate], now=NOW)


def test_empty_chain_is_refused() -> None:
    with pytest.raises(ChainError, match="0 certificates"):
        Bundle({"mesh.test": (ca().certificate,)}).verify([], now=NOW)


def test_pile_of_look_alike_intermediates_costs_a_bounded_number_of_signatures() -> None:
    root = ca()
    piles = [ca("same", root) for _ in range(chains.MAX_SIGNATURES + 4)]
    party = leaf(ca("same"))
    bundle = Bundle({"mesh.test": (root.certificate,)}, tuple(pile.certificate for pile in piles))
    with pytest.raises(ChainError, match=f"more than {chains.MAX_SIGNATURES} signatures"):
        bundle.verify_leaf(party.certificate, now=NOW)


def test_every_single_byte_of_a_leaf_is_covered_by_its_signature() -> None:
    root = ca()
    party = leaf(root)
    bundle = Bundle({"mesh.test": (root.certificate,)})
    to_sign = party.certificate.tbs_certificate_bytes
    der = party.certificate.public_bytes(Encoding.DER)
    start = der.index(to_sign)
    for place in range(start, len(der), 7):
        damaged = bytearray(der)
        damaged[place] ^= 1
        try:
            certificate = x509.load_der_x509_certificate(bytes(damaged))
        except ValueError:
            continue
        if certificate.fingerprint(hashes.SHA256()) != party.certificate.fingerprint(hashes.SHA256()):
            with pytest.raises(ChainError):
                bundle.verify_leaf(certificate, now=NOW)
