"""`hauberk policy explain`: every check's answer to one caller and token, with the line it comes from."""

import json
from pathlib import Path
from typing import Any

import pytest

from hauberk.certs.identity import SpiffeId, identify_certificate
from hauberk.certs.store import CredentialStore
from hauberk.cli.state import State
from tests.cli.test_policy_check import FIRST, MESH, lab, policy
from tests.interceptors.token_forge import ISSUER, KID, Forge, bound_to, jwk, jwks
from tests.mesh.running import hauberk

METHOD = "lab.v1.Back/Act"
TOKENS = f'[tokens.login]\nissuer = "{ISSUER}"\njwks = "keys.json"\n'
OPTION = policy(
    'callers: "front"',
    "deadline { required: true max { seconds: 1 } }",
    'token { roles: "customer" bound: false }',
    "quota { limit: 1 per { seconds: 3600 } }",
    "priority: PRIORITY_LOW",
)
AT = {"callers": 1, "deadline": 2, "token": 3, "quota": 4, "overload": 5, "validation": 0}
"""On which of its lines each is."""


def place(demand: str) -> str:
    return f"protos/lab/v1/lab.proto:{FIRST + AT[demand]}"


@pytest.fixture
def forge() -> Forge:
    return Forge(audience="spiffe://lab.test/back")


@pytest.fixture
def folder(tmp_path: Path, forge: Forge) -> Path:
    (tmp_path / "keys.json").write_bytes(jwks(jwk(forge.key, KID)))
    return lab(tmp_path, OPTION, MESH + TOKENS)


def explained(folder: Path, *more: str, caller: str = "front") -> dict[str, Any]:
    done = hauberk(folder, "policy", "explain", METHOD, "--caller", caller, "--json", *more)
    assert done.returncode == 0, done.stderr
    (told,) = json.loads(done.stdout)
    return dict(told)


def answers(told: dict[str, Any]) -> dict[str, str]:
    return {line["check"]: line["reason"] or line["answer"] for line in told["checks"]}


def token_file(folder: Path, token: str) -> str:
    (folder / "token").write_text(f"{token}\n")
    return str(folder / "token")


def test_checks_are_told_in_the_order_of_enforcement_with_their_lines(folder: Path, forge: Forge) -> None:
    told = explained(folder, "--token", token_file(folder, forge.token(roles=["customer"])))
    checks = [line["check"] for line in told["checks"]]
    assert checks == [
        *("peer", "metadata", "in flight", "callers", "deadline", "token", "roles", "quota"),
        *("overload", "validation"),
    ]
    where = {line["check"]: line["where"] for line in told["checks"]}
    assert {demand: where[demand] for demand in AT} == {demand: place(demand) for demand in AT}
    assert where["roles"] == where["token"]
    assert (told["admitted"], told["verdict"]) == (True, "admitted")
    assert told["caller"] == "spiffe://lab.test/front"


@pytest.mark.parametrize(
    ("caller", "more", "claims", "check", "reason"),
    [
        ("stranger", (), {"roles": ["customer"]}, "callers", "CALLER_NOT_ALLOWED"),
        ("front", ("--deadline", "0"), {"roles": ["customer"]}, "deadline", "DEADLINE_REQUIRED"),
        ("front", (), None, "token", "TOKEN_MISSING"),
        ("front", (), {"exp": 1_000_000_600, "iat": 1_000_000_000}, "token", "TOKEN_EXPIRED"),
        ("front", (), {"aud": "spiffe://lab.test/other"}, "token", "TOKEN_AUDIENCE"),
        ("front", (), {"iss": "https://nobody.test"}, "token", "TOKEN_ISSUER_UNKNOWN"),
        ("front", (), {"roles": ["clerk"]}, "roles", "ROLE_MISSING"),
    ],
)
def test_each_refusal_is_the_servers_own(
    folder: Path,
    forge: Forge,
    caller: str,
    more: tuple[str, ...],
    claims: dict[str, Any] | None,
    check: str,
    reason: str,
) -> None:
    brought = () if claims is None else ("--token", token_file(folder, forge.token(**claims)))
    told = explained(folder, *more, *brought, caller=caller)
    found = answers(told)
    assert (told["admitted"], found[check]) == (False, reason)
    assert {found[other] for other in ("peer", "metadata", "in flight")} == {"passes"}
    assert found["quota"] == "passes"
    if check == "token":
        assert found["roles"] == "not asked"


def test_nothing_is_spent(folder: Path, forge: Forge) -> None:
    """The quota lets one call through in an hour."""
    brought = token_file(folder, forge.token(roles=["customer"]))
    assert all(explained(folder, "--token", brought)["admitted"] for _ in range(2))
    assert {path.name for path in folder.iterdir()} == {"mesh.toml", "protos", "keys.json", "token"}


def test_an_override_is_explained_with_its_line_of_the_mesh_file(folder: Path, forge: Forge) -> None:
    table = f'[policy."/{METHOD}"]\ncallers = ["back"]\ntoken = false\nquota = {{ limit = 0, per = "1s" }}\n'
    text = (folder / "mesh.toml").read_text()
    (folder / "mesh.toml").write_text(
        text + table.replace("limit = 0", "limit = 9") + 'shadow = ["callers"]\n'
    )
    told = explained(folder)
    found = answers(told)
    assert told["admitted"]
    assert (found["callers"], found["shadow callers"]) == ("passes", "CALLER_NOT_ALLOWED")
    assert "token" not in found
    where = {line["check"]: line["where"] for line in told["checks"]}
    line = text.count("\n") + 2
    assert (where["shadow callers"], where["quota"]) == (f"mesh.toml:{line}", f"mesh.toml:{line + 2}")
    assert where["deadline"] == place("deadline")


def test_for_people_it_is_a_table(folder: Path) -> None:
    text = hauberk(folder, "policy", "explain", METHOD, "--caller", "stranger").stdout
    head, columns, *rows = text.splitlines()
    assert head.endswith("refused: spiffe://lab.test/stranger may not call /lab.v1.Back/Act")
    assert columns.split() == ["CHECK", "ANSWER", "WHY", "WHERE"]
    (row,) = [row for row in rows if row.startswith("callers ")]
    assert "(PERMISSION_DENIED, CALLER_NOT_ALLOWED)" in row


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("lab.v1.Back/Nothing", "--caller", "front"), "no contract on disk has lab.v1.Back/Nothing"),
        ((METHOD, "--caller", "Front"), "nobody can call as 'Front'"),
        ((METHOD, "--caller", "front", "--token", "nowhere"), "--token nowhere: No such file"),
        ((METHOD, "--caller", "front", "--running"), "no control plane runs"),
    ],
)
def test_what_cannot_be_explained_says_why(folder: Path, arguments: tuple[str, ...], complaint: str) -> None:
    done = hauberk(folder, "policy", "explain", *arguments)
    assert done.returncode == 1
    assert complaint in done.stderr


def test_a_running_mesh_is_explained_with_the_callers_own_certificate(shop_folder: Path) -> None:
    called = "shop.orders.v1.Orders/PlaceOrder"
    for caller, admitted in (("orders", False), ("gateway", True)):
        done = hauberk(shop_folder, "policy", "explain", called, "--caller", caller, "--running", "--json")
        assert done.returncode == 0, done.stderr
        (told,) = json.loads(done.stdout)
        assert (told["admitted"], told["policy"]) == (admitted, "as orders#1 enforce it")
        if caller == "orders":
            assert "workloads/orders-1" in told["checks"][0]["why"]


def test_a_token_bound_to_a_certificate_is_held_against_the_callers_own(
    tmp_path: Path, shop_folder: Path
) -> None:
    """The shop's own mesh, its method overridden to demand a token bound to a certificate of orders."""
    state = State.beside(shop_folder / "mesh.toml")
    credentials = CredentialStore(state.workload("orders", 1)).load()
    assert credentials is not None
    forge = Forge(audience=str(SpiffeId.of("shop.test", "payments")))
    (tmp_path / "keys.json").write_bytes(jwks(jwk(forge.key, KID)))
    (tmp_path / ".hauberk").symlink_to(shop_folder / ".hauberk")
    text = (shop_folder / "mesh.toml").read_text()
    called = "shop.payments.v1.Payments/Capture"
    (tmp_path / "mesh.toml").write_text(f'{text}\n{TOKENS}[policy."/{called}"]\ntoken = {{}}\n')
    leaf = identify_certificate(credentials.svid.leaf)
    for thumbprint, outcome in ((leaf.x5t_s256, "passes"), ("x" * 43, "TOKEN_OF_ANOTHER_CERTIFICATE")):
        brought = token_file(tmp_path, forge.token(cnf=bound_to(thumbprint)))
        done = hauberk(
            tmp_path, "policy", "explain", called, "--caller", "orders", "--token", brought, "--json"
        )
        assert done.returncode == 0, done.stderr
        assert answers(json.loads(done.stdout)[0])["token"] == outcome
    assert "the token is good, and bound to another certificate than the one in" in done.stdout
