"""The corpus of chains: what Bundle.verify must accept and refuse, also shown to OpenSSL and to Go.

`only_ours` gives the reason where we refuse what others may accept. The other way round must never be.
"""

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.certs import forge
from tests.certs.forge import HOUR, NOW, OURS, Party, ca, constraints, dns, leaf, uri, usage


@dataclass(frozen=True, kw_only=True)
class Case:
    """A leaf first, what it presents after it, what we know and trust, and whether that is enough."""

    chain: Sequence[Party]
    anchors: Sequence[Party]
    accepted: bool = False
    trust_domain: str = "mesh.test"
    """Whose `anchors` are."""
    known: Sequence[Party] = ()
    foreign_anchors: Sequence[Party] = ()
    """Anchors of the trust domain other.test."""
    only_ours: str = ""


def basic(path_length: int | None = None, *, is_ca: bool = True) -> x509.BasicConstraints:
    return x509.BasicConstraints(ca=is_ca, path_length=path_length)


def line(length: int, root: Party) -> list[Party]:
    """Leaf first, `length` intermediates after it."""
    signers = [root]
    for number in range(length):
        signers.append(ca(f"intermediate {number}", signers[-1]))
    return [leaf(signers[-1]), *reversed(signers[1:])]


def within(*names: x509.GeneralName, **more: object) -> Case:
    """A root that permits mesh.test, both kinds, and a leaf with `names`."""
    root = ca(extra=[constraints([uri("mesh.test"), dns("mesh.test")])])
    return Case(chain=[leaf(root, names=names)], anchors=[root], **more)  # type: ignore[arg-type]


def good() -> dict[str, Callable[[], Case]]:
    root = ca()
    middle = ca("middle", root, basic=basic(0))
    p384, rsa_root = ca("p384", key=ec.generate_private_key(ec.SECP384R1())), ca("rsa", key=rsa_key(2048))
    next_root = ca("next root")
    below_all = ca("all", extra=[constraints([uri(".mesh.test"), dns("")])])
    elsewhere = ca("elsewhere", extra=[constraints(None, [uri("other.test"), dns("other.test")])])
    no_ip = ca("no ip", extra=[constraints([ip("10.0.0.0/8")])])
    cases = {
        "signed by the root": Case(chain=[leaf(root)], anchors=[root]),
        "one intermediate": Case(chain=[leaf(middle), middle], anchors=[root]),
        "intermediate known, not presented": Case(chain=[leaf(middle)], known=[middle], anchors=[root]),
        "intermediate known and presented": Case(
            chain=[leaf(middle), middle], known=[middle], anchors=[root]
        ),
        "root presented too": Case(chain=[leaf(middle), middle, root], anchors=[root]),
        "two intermediates": Case(chain=line(2, root), anchors=[root]),
        "two intermediates out of order": Case(chain=[(c := line(2, root))[0], c[2], c[1]], anchors=[root]),
        "something else presented too": Case(chain=[leaf(middle), ca("x"), middle], anchors=[root]),
        "two roots trusted": Case(chain=[leaf(middle), middle], anchors=[next_root, root]),
        "p-384 root": Case(chain=[leaf(p384)], anchors=[p384]),
        "rsa root": Case(chain=[leaf(rsa_root)], anchors=[rsa_root]),
        "rsa leaf": Case(chain=[leaf(root, key=rsa_key(2048))], anchors=[root]),
        "names within": within(uri(OURS), dns("orders.mesh.test")),
        "names within, dns in capitals": within(uri(OURS), dns("ORDERS.Mesh.Test")),
        "the trust domain's own dns name": within(uri(OURS), dns("mesh.test")),
        "an ip address beside uri and dns constraints": within(uri(OURS), ip("10.1.2.3")),
        "uri below a leading dot": Case(
            chain=[leaf(below_all, names=[uri("spiffe://eu.mesh.test/x"), dns("any.org")])],
            anchors=[below_all],
            trust_domain="eu.mesh.test",
        ),
        "others excluded": Case(chain=[leaf(elsewhere)], anchors=[elsewhere]),
        "ip within": Case(chain=[leaf(no_ip, names=[uri(OURS), ip("10.1.2.3")])], anchors=[no_ip]),
        "intermediate with both usages": Case(
            chain=[leaf(m := ca("m", root, extra=[(x509.ExtendedKeyUsage(forge.BOTH), False)])), m],
            anchors=[root],
        ),
        "foreign leaf under its own anchor": Case(
            chain=[leaf(next_root, names=[uri("spiffe://other.test/x")])],
            anchors=[root],
            foreign_anchors=[next_root],
        ),
    }
    return {name: lambda case=case: accepted(case) for name, case in cases.items()}  # type: ignore[misc]


def accepted(case: Case) -> Case:
    fields = {name: getattr(case, name) for name in case.__dataclass_fields__}
    return Case(**{**fields, "accepted": True})


def bad() -> dict[str, Callable[[], Case]]:
    root = ca()
    middle = ca("middle", root)
    return {
        **dates(root),
        **issuers(root, middle),
        **names_outside(),
        **trust_domains(root),
        **stricter_than_others(root),
    }


def dates(root: Party) -> dict[str, Callable[[], Case]]:
    old_root, old = ca("old", ends=NOW - HOUR / 2), ca("old", root, ends=NOW - HOUR / 2)
    young_root, young = ca("young", begins=NOW + HOUR / 2), ca("young", root, begins=NOW + HOUR / 2)
    return {
        "leaf expired": lambda: Case(chain=[leaf(root, ends=NOW - HOUR / 2)], anchors=[root]),
        "leaf not yet valid": lambda: Case(chain=[leaf(root, begins=NOW + HOUR / 2)], anchors=[root]),
        "intermediate expired": lambda: Case(chain=[leaf(old), old], anchors=[root]),
        "intermediate not yet valid": lambda: Case(chain=[leaf(young), young], anchors=[root]),
        "root expired": lambda: Case(chain=[leaf(old_root)], anchors=[old_root]),
        "root not yet valid": lambda: Case(chain=[leaf(young_root)], anchors=[young_root]),
    }


def issuers(root: Party, middle: Party) -> dict[str, Callable[[], Case]]:
    def through(intermediate: Party) -> Case:
        return Case(chain=[leaf(intermediate), intermediate], anchors=[root])

    codesign = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])
    return {
        "self-signed leaf": lambda: Case(chain=[leaf(None, subject="me")], anchors=[root]),
        "another ca": lambda: Case(chain=[leaf(ca("another"))], anchors=[root]),
        "another ca of the same name": lambda: Case(chain=[leaf(ca())], anchors=[root]),
        "signed in the root's name by another key": lambda: Case(
            chain=[leaf(root, signed_by=forge.new_key())], anchors=[root]
        ),
        "intermediate forged": lambda: through(ca("forged", root, signed_by=forge.new_key())),
        "intermediate missing": lambda: Case(chain=[leaf(middle)], anchors=[root]),
        "intermediate is no ca": lambda: through(ca("no ca", root, basic=basic(is_ca=False))),
        "intermediate without basic constraints": lambda: through(ca("none", root, basic=None)),
        "a workload as issuer": lambda: through(leaf(root, subject="workload")),
        "intermediate may not sign certificates": lambda: through(
            ca("no sign", root, key_usage=usage(digital_signature=True, crl_sign=True))
        ),
        "intermediate for code signing": lambda: through(ca("code", root, extra=[(codesign, False)])),
        "path length of the root": lambda: path_length(0, 0),
        "path length of an intermediate": lambda: path_length(None, 0),
        "unknown critical extension in the leaf": lambda: Case(
            chain=[leaf(root, extra=[forge.UNKNOWN_CRITICAL])], anchors=[root]
        ),
        "unknown critical extension in the intermediate": lambda: through(
            ca("critical", root, extra=[forge.UNKNOWN_CRITICAL])
        ),
        "p-521 leaf is no svid": lambda: Case(
            chain=[leaf(root, key=ec.generate_private_key(ec.SECP521R1()))],
            anchors=[root],
            only_ours="others do not limit the curve of a leaf",
        ),
        "two cas that signed each other": lambda: loop(root),
    }


def path_length(of_root: int | None, of_first: int | None) -> Case:
    root = ca(basic=basic(of_root))
    first = ca("first", root, basic=basic(of_first))
    second = ca("second", first)
    return Case(chain=[leaf(second), second, first], anchors=[root])


def loop(root: Party) -> Case:
    one, two = ca("one"), ca("two")
    one_by_two, two_by_one = ca("one", two, key=one.key), ca("two", one, key=two.key)
    return Case(chain=[leaf(one), one_by_two, two_by_one], anchors=[root])


def names_outside() -> dict[str, Callable[[], Case]]:
    def under(constraint: tuple[x509.ExtensionType, bool], *names: x509.GeneralName) -> Case:
        root = ca(extra=[constraint])
        return Case(chain=[leaf(root, names=names)], anchors=[root])

    def own_name(*, outside: str) -> Case:
        root = ca(extra=[constraints([uri("mesh.test")])])
        own = x509.SubjectAlternativeName([uri(outside)])
        middle = ca("middle", root, extra=[(own, False)])
        return Case(chain=[leaf(middle), middle], anchors=[root])

    def in_the_middle() -> Case:
        root = ca()
        first = ca("first", root, extra=[constraints([uri("other.test")])])
        second = ca("second", first)
        return Case(chain=[leaf(second), second, first], anchors=[root])

    def uri_of(trust_domain: str, **more: str) -> Case:
        return within(uri(f"spiffe://{trust_domain}/orders"), trust_domain=trust_domain, **more)

    return {
        "uri of another host": lambda: uri_of("other.test"),
        "uri of a host below": lambda: uri_of(
            "eu.mesh.test", only_ours="go lets a constraint on one host cover those below it"
        ),
        "uri of a host that ends alike": lambda: uri_of("evilmesh.test"),
        "dns name of another domain": lambda: within(uri(OURS), dns("orders.other.test")),
        "dns name that ends alike": lambda: within(uri(OURS), dns("evilmesh.test")),
        "one good dns name and one bad": lambda: within(uri(OURS), dns("mesh.test"), dns("other.test")),
        "uri excluded": lambda: under(constraints(None, [uri("mesh.test")]), uri(OURS)),
        "dns name excluded": lambda: under(
            constraints(None, [dns("mesh.test")]), uri(OURS), dns("orders.mesh.test")
        ),
        "the wrong uri beside the right dns name": lambda: within(
            uri("spiffe://other.test/orders"), dns("orders.mesh.test"), trust_domain="other.test"
        ),
        "permitted, but excluded below": lambda: under(
            constraints([dns("mesh.test")], [dns("orders.mesh.test")]), uri(OURS), dns("a.orders.mesh.test")
        ),
        "uri is the host of a leading dot": lambda: under(constraints([uri(".mesh.test")]), uri(OURS)),
        "ip address outside": lambda: under(constraints([ip("10.0.0.0/8")]), uri(OURS), ip("127.0.0.1")),
        "ip address of the other family": lambda: under(
            constraints([ip("10.0.0.0/8")]), uri(OURS), ip("::1")
        ),
        "ip address excluded": lambda: under(
            constraints(None, [ip("10.0.0.0/8")]), uri(OURS), ip("10.0.0.1")
        ),
        "constraint two cas above": in_the_middle,
        "intermediate's own name outside": lambda: own_name(outside="spiffe://other.test"),
    }


def trust_domains(root: Party) -> dict[str, Callable[[], Case]]:
    constrained = ca("other", extra=[constraints([uri("other.test"), dns("other.test")])])
    free = ca("free")
    return {
        "another trust domain's ca forges our names": lambda: Case(
            chain=[leaf(constrained)], anchors=[root], foreign_anchors=[constrained]
        ),
        "another trust domain's ca forges our names, unconstrained": lambda: Case(
            chain=[leaf(free)],
            anchors=[root],
            foreign_anchors=[free],
            only_ours="others know no trust domains: an anchor is an anchor",
        ),
        "our ca forges another trust domain's names": lambda: Case(
            chain=[leaf(root, names=[uri("spiffe://other.test/x")])],
            anchors=[root],
            foreign_anchors=[free],
            only_ours="others know no trust domains: an anchor is an anchor",
        ),
        "a trust domain nobody knows": lambda: Case(
            chain=[leaf(root, names=[uri("spiffe://third.test/x")])],
            anchors=[root],
            only_ours="others know no trust domains: an anchor is an anchor",
        ),
    }


def stricter_than_others(root: Party) -> dict[str, Callable[[], Case]]:
    weak = ca("weak", root, key=rsa_key(1024))
    email = ca("email", extra=[constraints([x509.RFC822Name("mesh.test")])])
    any_usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    client_only = ca("client only", root, extra=[(any_usage, False)])
    return {
        "three intermediates": lambda: Case(
            chain=line(3, root), anchors=[root], only_ours="we accept three certificates above a leaf"
        ),
        "nine certificates presented": lambda: Case(
            chain=[leaf(root), *[root] * 8],
            anchors=[root],
            only_ours="we accept eight certificates presented",
        ),
        "rsa-1024 intermediate": lambda: Case(
            chain=[leaf(weak), weak], anchors=[root], only_ours="openssl's limit is its security level"
        ),
        "a constraint on e-mail addresses": lambda: Case(
            chain=[leaf(email)], anchors=[email], only_ours="what we do not check must not pass"
        ),
        "intermediate for clients only": lambda: Case(
            chain=[leaf(client_only), client_only], anchors=[root], only_ours="an svid is for both directions"
        ),
        "no spiffe id": lambda: Case(
            chain=[leaf(root, names=[dns("orders.mesh.test")])],
            anchors=[root],
            only_ours="x509-svid section 2",
        ),
        "leaf that is a ca": lambda: Case(
            chain=[leaf(root, is_ca=True)], anchors=[root], only_ours="x509-svid section 4.1"
        ),
        "critical name constraints in a leaf": lambda: Case(
            chain=[leaf(root, extra=[constraints([dns("mesh.test")])])],
            anchors=[root],
            only_ours="they belong into cas only (RFC 5280 section 4.2.1.10)",
        ),
    }


def ip(text: str) -> x509.IPAddress:
    return x509.IPAddress(ipaddress.ip_network(text) if "/" in text else ipaddress.ip_address(text))


def rsa_key(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


CASES = {**good(), **bad()}
