"""Operators' overrides as mesh.toml says them: one table a method, its keys those of a policy in a contract.

    [policy."/shop.orders.v1.Orders/PlaceOrder"]
    callers = ["gateway"]
    deadline = { required = true, max = "3s" }
    token = { roles = ["customer"] }              or false: none is demanded
    quota = [{ limit = 50, per = "1s", burst = 100, key = "KEY_SUBJECT" }]
    priority = "PRIORITY_HIGH"
    audit = true
    message = { max_bytes = 65536 }
    shadow = ["quota"]                            or true: all of the above are only tried

What is said of a demand replaces the contract's whole. Values are spelled as protobuf's JSON has them.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.json_format import ParseDict, ParseError

from hauberk.cli.errors import MeshFileError
from hauberk.interceptors.errors import PolicyError
from hauberk.interceptors.overrides import FIELDS, Override, Overrides
from hauberk.protos.hauberk.policy.v1 import override_pb2

SHADOW = "shadow"
_LISTS = frozenset({"callers", "quota"})
_PREFIX = re.compile(r"^(Failed to parse \w+ field: )+")
_OFF = frozenset({"deadline", "token"})
"""Demands that `false` takes away."""


def overrides_of(tables: Mapping[str, Any], serves: Iterable[str], file: str = "mesh.toml") -> Overrides:
    """The tables by method, each checked. Raises MeshFileError: one line that says what and where.

    `serves` are the services of the mesh. Whether a method exists its contract alone can tell: the control
    plane does, or the process that serves it.
    """
    served = frozenset(serves)
    declared = []
    for method, table in tables.items():
        where = f'{file}: [policy."{method}"]'
        try:
            override = _declared(method, table, where)
            service = Override.of(override).service
        except PolicyError as error:
            what = str(error).removeprefix(f"override of {method}: ")
            raise MeshFileError(
                f"{where} {what}", "what each means: hauberk/policy/v1/policy.proto"
            ) from None
        if service not in served:
            known = ", ".join(sorted(served)) or "none"
            raise MeshFileError(f"{where} no workload serves {service}", f"services here: {known}")
        declared.append(override)
    try:
        return Overrides.of(declared)
    except PolicyError as error:
        raise MeshFileError(f"{file}: [policy] {error}", "leave fewer") from None


def line_of(text: str, method: str, field: str = "") -> int | None:
    """The line of the mesh file `text` on which `field` of `method` is overridden, or else of the table's
    heading; None if there is none in this form.
    """
    heading = re.compile(rf"""^\s*\[\s*policy\s*\.\s*["']{re.escape(method)}["']\s*\]""")
    head = None
    for number, line in enumerate(text.splitlines(), 1):
        if heading.match(line):
            head = number
        elif head is not None and line.lstrip().startswith("["):
            break
        elif head is not None and field and re.match(rf"\s*{re.escape(field)}\s*[.=]", line):
            return number
    return head


def _declared(method: str, table: object, where: str) -> override_pb2.Override:
    if not isinstance(table, dict):
        raise MeshFileError(f"{where} is no table", f'write [policy."{method}"] and its demands below')
    demands = {name: value for name, value in table.items() if name != SHADOW}
    for name in demands:
        if name not in FIELDS:
            near = difflib.get_close_matches(name, FIELDS, n=1)
            known = f"write {near[0]}" if near else f"known here: {', '.join(FIELDS)}, {SHADOW}"
            raise MeshFileError(f"{where} unknown key {name!r:.40}", known)
    said = override_pb2.Override(method=method, fields=demands, shadow=_shadow(table, demands, where))
    for name, value in demands.items():
        if name in _OFF and value is False:
            continue
        listed = [value] if name in _LISTS and not isinstance(value, list) else value
        try:
            ParseDict({name: listed}, said.policy)
        except (ParseError, TypeError, ValueError) as error:
            why = _why(error)
            raise MeshFileError(f"{where} {name}: {why}", 'spell it as in JSON: 3 seconds are "3s"') from None
    return said


def _why(error: Exception) -> str:
    """What protobuf's reader of JSON says, on one line."""
    said = _PREFIX.sub("", str(error).partition("\n")[0]).replace('"hauberk.policy.v1.', '"').rstrip(".")
    return said[:1].lower() + said[1:]


def _shadow(table: Mapping[str, Any], demands: Iterable[str], where: str) -> list[str]:
    said = table.get(SHADOW, False)
    if isinstance(said, bool):
        return list(demands) if said else []
    if isinstance(said, list) and all(isinstance(name, str) for name in said):
        return said
    raise MeshFileError(
        f"{where} {SHADOW} is neither true nor a list of demands", f'write {SHADOW} = ["token"]'
    )
