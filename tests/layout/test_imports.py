"""Imports go one way: services, the face, interceptors, certs; and always through the one import root."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.layout.tree import LINKED, ROOT, module_of, python_by_hand

SERVICES = {"catalog", "console", "control", "gateway", "orders", "payments", "quotas", "shopper", "tokens"}
OURS = [path for path in python_by_hand() if module_of(path).split(".")[0] == "hauberk"]
POLICY = "hauberk.protos.hauberk.policy"


def test_every_import_goes_through_the_one_import_root() -> None:
    wrong = [
        f"{path}:{line} imports {name}; write hauberk.{name}"
        for path in python_by_hand()
        for line, name in imports(path)
        if name.split(".")[0] in LINKED
    ]
    assert wrong == []


def test_every_service_is_known_by_name() -> None:
    runnable = {path.parts[1] for path in OURS if path.parts[0] == "services" and path.name == "main.py"}
    assert runnable <= SERVICES


def test_imports_go_one_way() -> None:
    wrong = [
        f"{path}:{line} {complaint}"
        for path in OURS
        for line, name in imports(path)
        if (complaint := refusal(module_of(path), name))
    ]
    assert wrong == []


def test_certs_know_no_library_but_cryptography() -> None:
    wrong = [
        f"{path}:{line} imports {name}"
        for path in OURS
        if path.parts[0] == "certs"
        for line, name in imports(path)
        if name.split(".")[0] not in {*sys.stdlib_module_names, "hauberk", "cryptography"}
        and (path.name, name.split(".")[0]) != ("credentials.py", "grpc")
    ]
    assert wrong == []


def test_nobody_judges_a_token_but_the_one_wrapper() -> None:
    """joserfc alone, and PyJWT even more, accept tokens that interceptors/token.py refuses."""
    judging = {
        (str(path), name.split(".")[0])
        for path in OURS
        for _, name in imports(path)
        if name.split(".")[0] in {"joserfc", "jwt", "jose", "jwcrypto", "authlib"}
    }
    assert judging == {("interceptors/token.py", "joserfc"), ("interceptors/issuers.py", "joserfc")}


@pytest.mark.parametrize(
    ("module", "name", "allowed"),
    [
        ("hauberk.certs.svid", "hauberk.certs.keys", True),
        ("hauberk.certs.svid", "hauberk.interceptors.call", False),
        ("hauberk.certs.svid", "hauberk.protos.hauberk.policy.v1", False),
        ("hauberk.certs.svid", "hauberk", False),
        ("hauberk.interceptors.peer", "hauberk.certs.bundle", True),
        ("hauberk.interceptors.policy", "hauberk.protos.hauberk.policy.v1.policy_pb2", True),
        ("hauberk.interceptors.policy", "hauberk.protos.hauberk.policy_of_others", False),
        ("hauberk.interceptors.peer", "hauberk.protos.hauberk.control.v1", False),
        ("hauberk.interceptors.peer", "hauberk.settings", False),
        ("hauberk.mesh", "hauberk.interceptors.inbound", True),
        ("hauberk.mesh", "hauberk.services.control.store", False),
        ("hauberk.cli.up", "hauberk.services", False),
        ("hauberk.services.orders.main", "hauberk", True),
        ("hauberk.services.orders.main", "hauberk.services.orders.store", True),
        ("hauberk.services.orders.main", "hauberk.services.catalog.store", False),
        ("hauberk.services.orders.store", "hauberk.services.database", True),
        ("hauberk.services.database", "hauberk.services.orders.store", False),
        ("hauberk.services.orders.main", "hauberk.protos.shop.catalog.v1", True),
    ],
)
def test_the_rule_itself(module: str, name: str, allowed: bool) -> None:
    assert (refusal(module, name) is None) is allowed


def refusal(module: str, name: str) -> str | None:
    """Why `module` may not import `name`; None if it may."""
    if name.split(".")[0] != "hauberk":
        return None
    mine, theirs = layer(module), layer(name)
    match mine:
        case "certs":
            allowed = theirs == "certs"
        case "interceptors":
            allowed = theirs in {"interceptors", "certs"} or f"{name}.".startswith(f"{POLICY}.")
        case "face":
            allowed = theirs != "services"
        case "services":
            allowed = theirs != "services" or service(name) in {None, service(module)}
        case _:
            allowed = theirs == mine
    return None if allowed else f"imports {name}: {mine} may not import {theirs}"


def service(name: str) -> str | None:
    """Which service a module belongs to; None for what several of them share, services/database.py say."""
    parts = name.split(".")
    return parts[2] if len(parts) > 2 and parts[2] in SERVICES else None


def layer(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in LINKED else "face"


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of all that a file imports, under TYPE_CHECKING and inside functions too."""
    package = module_of(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            # `from hauberk import certs` names the package only in what it imports.
            bare = origin in {"hauberk", "hauberk.protos", "hauberk.protos.hauberk", "hauberk.services"}
            yield from ((node.lineno, f"{origin}.{alias.name}" if bare else origin) for alias in node.names)
