"""Promises of certs/bundle.py about what a bundle is; whom it accepts is in test_chain.py."""

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from hauberk.certs.bundle import Bundle
from hauberk.certs.errors import BundleError
from tests.certs import forge
from tests.certs.forge import ca, usage

ONE, TWO = ca("one"), ca("two")
MIDDLE = ca("middle", ONE)


def test_bundle_round_trips_through_pem() -> None:
    bundle = Bundle.parse("mesh.test", ONE.pem + TWO.pem, MIDDLE.pem)
    assert bundle.anchors == {"mesh.test": (ONE.certificate, TWO.certificate)}
    assert bundle.intermediates == (MIDDLE.certificate,)
    assert Bundle.parse("mesh.test", bundle.pem(), MIDDLE.pem) == bundle


def test_fingerprint_tells_content_and_not_order() -> None:
    bundle = Bundle.parse("mesh.test", ONE.pem + TWO.pem)
    assert bundle.fingerprint == Bundle.parse("mesh.test", TWO.pem + ONE.pem + ONE.pem).fingerprint
    others = [
        Bundle.parse("mesh.test", ONE.pem),
        Bundle.parse("other.test", ONE.pem + TWO.pem),
        Bundle.parse("mesh.test", ONE.pem + TWO.pem, MIDDLE.pem),
        Bundle({"mesh.test": (ONE.certificate,), "other.test": (TWO.certificate,)}),
    ]
    assert len({bundle.fingerprint, *(other.fingerprint for other in others)}) == 5
    assert len(bundle.fingerprint) == 64


def test_merged_bundle_knows_whose_each_anchor_is() -> None:
    merged = Bundle.parse("mesh.test", ONE.pem).merge(Bundle.parse("other.test", TWO.pem))
    assert merged.anchors == {"mesh.test": (ONE.certificate,), "other.test": (TWO.certificate,)}
    assert merged.pem() == ONE.pem + TWO.pem


def test_merging_joins_the_anchors_of_one_trust_domain() -> None:
    merged = Bundle.parse("mesh.test", ONE.pem).merge(Bundle.parse("mesh.test", TWO.pem + ONE.pem))
    assert merged.anchors == {"mesh.test": (ONE.certificate, TWO.certificate)}


def test_bundle_cannot_be_changed() -> None:
    bundle = Bundle.parse("mesh.test", ONE.pem)
    with pytest.raises(TypeError):
        bundle.anchors["other.test"] = (TWO.certificate,)  # type: ignore[index]
    with pytest.raises(AttributeError):
        bundle.intermediates = ()  # type: ignore[misc]


def test_bundle_does_not_follow_the_mapping_it_was_made_of() -> None:
    anchors = {"mesh.test": (ONE.certificate,)}
    bundle = Bundle(anchors)
    anchors["other.test"] = (TWO.certificate,)
    assert bundle.anchors == {"mesh.test": (ONE.certificate,)}


@pytest.mark.parametrize("pem", [b"", b"\n", b"  "])
def test_empty_bundle_is_refused(pem: bytes) -> None:
    with pytest.raises(BundleError, match="empty"):
        Bundle.parse("mesh.test", pem)
    with pytest.raises(BundleError, match="empty"):
        Bundle({})
    with pytest.raises(BundleError, match="empty"):
        Bundle({"mesh.test": (ONE.certificate,), "other.test": ()})


@pytest.mark.parametrize("pem", [b"junk", ONE.pem[:200], ONE.pem.replace(b"M", b"N", 1)])
def test_garbage_is_refused(pem: bytes) -> None:
    with pytest.raises(BundleError):
        Bundle.parse("mesh.test", pem)


def test_private_key_in_a_bundle_is_refused_and_not_shown() -> None:
    with pytest.raises(BundleError, match="holds a private key") as refused:
        Bundle.parse("mesh.test", ONE.pem + ONE.key_pem)
    assert "BEGIN" not in str(refused.value)


BAD_ANCHORS = {
    "an intermediate": MIDDLE,
    "a leaf": forge.leaf(ONE),
    "a self-signed leaf": forge.leaf(None, subject="me"),
    "no ca": ca(basic=None),
    "may not sign certificates": ca(key_usage=usage(digital_signature=True)),
    "rsa-1024": ca(key=rsa.generate_private_key(65537, 1024)),
    "unknown critical extension": ca(extra=[forge.UNKNOWN_CRITICAL]),
    "signed by another key": ca(signed_by=forge.new_key()),
}


@pytest.mark.parametrize("party", BAD_ANCHORS.values(), ids=BAD_ANCHORS.keys())
def test_what_cannot_be_an_anchor_is_refused(party: forge.Party) -> None:
    with pytest.raises(BundleError, match="anchor"):
        Bundle.parse("mesh.test", party.pem)


def test_leaf_among_intermediates_is_refused() -> None:
    with pytest.raises(BundleError, match="intermediate cannot be used"):
        Bundle.parse("mesh.test", ONE.pem, forge.leaf(ONE).pem)


@pytest.mark.parametrize("trust_domain", ["", "Mesh.test", "mesh.test/", "spiffe://mesh.test"])
def test_what_is_no_trust_domain_has_no_bundle(trust_domain: str) -> None:
    with pytest.raises(BundleError):
        Bundle.parse(trust_domain, ONE.pem)


def test_trust_domains_within_one_another_are_refused() -> None:
    """/prod/orders in mesh.test and /orders in prod.mesh.test would have one DNS name."""
    with pytest.raises(BundleError, match="lies within"):
        Bundle.parse("mesh.test", ONE.pem).merge(Bundle.parse("prod.mesh.test", TWO.pem))
    Bundle.parse("mesh.test", ONE.pem).merge(Bundle.parse("prodmesh.test", TWO.pem))
