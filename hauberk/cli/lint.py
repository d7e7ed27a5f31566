"""What is wrong with the contracts of a mesh, though each of them is valid: found by looking at all at once.

Pure: contracts, names and who serves what come in, findings go out. What is only worth a look is a note, and
makes nothing fail.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from hauberk.certs.identity import SpiffeId
from hauberk.cli.contracts import Method
from hauberk.interceptors.policy import CallerPattern, Idempotency, Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong: what, where, and what to do about it."""

    kind: str
    """For scripts: "unreachable", "unknown-caller", ..."""
    method: str
    """Its path, or the service's full name."""
    what: str
    where: str
    next_step: str
    note: bool = False
    """Worth a look, and not wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of the mesh besides its contracts."""

    trust_domain: str
    serves: Mapping[str, str]
    """Which workload serves each service (full name)."""
    names: frozenset[str]
    """Everybody who may call: workloads, whoever runs [once], operators, clients that are connected."""
    issuers: bool
    """Whether any issuer of tokens is believed."""
    file: str = "mesh.toml"
    ids: Mapping[str, SpiffeId] = field(init=False)

    def __post_init__(self) -> None:
        ids = {name: SpiffeId.of(self.trust_domain, name) for name in self.names}
        object.__setattr__(self, "ids", ids)


def findings(services: Mapping[str, Mapping[str, Method]], known: Known) -> list[Finding]:
    """All there are, by service and method as they stand in the contracts."""
    found = [_absent(service, known) for service in known.serves if service not in services]
    budgets = _budgets(services, known)
    for service, methods in services.items():
        for method in methods.values():
            if method.policy is None:
                next_step = "write option (hauberk.policy.v1.policy) on it, or correct the one it has"
                found.append(_at(method, "", "no-policy", method.complaint, next_step))
                continue
            for look in (_callers, _writes, _token):
                found.extend(look(method, method.policy, known))
            found.extend(_deadline(method, method.policy, known, budgets, known.serves.get(service)))
    return found


def _absent(service: str, known: Known) -> Finding:
    return Finding(
        kind="no-contract",
        method=service,
        what=f"{known.serves[service]} serves {service}, and no .proto file declares it",
        where=f"{known.file} [workloads.{known.serves[service]}] serves",
        next_step="correct the name, or name the folder of its contract: --protos FOLDER",
    )


def _callers(method: Method, policy: Policy, known: Known) -> Iterator[Finding]:
    if policy.anonymous:
        return
    if not policy.callers:
        what = "nobody may call it: callers is empty"
        yield _at(method, "callers", "unreachable", what, 'name who may: callers: ["gateway"]')
        return
    nobody = [pattern for pattern in policy.callers if not _meant(pattern, known)]
    if len(nobody) == len(policy.callers):
        what = f"nobody in the mesh may call it: {', '.join(map(str, nobody))}"
        yield _at(method, "callers", "unreachable", what, _who(known))
        return
    for pattern in nobody:
        what = f"callers has {pattern}, and the mesh has nobody of that name"
        yield _at(method, "callers", "unknown-caller", what, _who(known), note=pattern.below)


def _meant(pattern: CallerPattern, known: Known) -> list[str]:
    """Whom it means; a pattern of another trust domain is taken to mean somebody there."""
    if pattern.trust_domain not in (None, known.trust_domain):
        return [str(pattern)]
    return [name for name, spiffe_id in known.ids.items() if pattern.matches(spiffe_id, known.trust_domain)]


def _who(known: Known) -> str:
    return f"correct the name, remove it, or add the workload; there are: {', '.join(sorted(known.names))}"


def _writes(method: Method, policy: Policy, known: Known) -> Iterator[Finding]:
    """Methods that may change something for whoever asks."""
    if policy.idempotency is Idempotency.NO_SIDE_EFFECTS or policy.token is not None:
        return
    anyone = [str(pattern) for pattern in policy.callers if pattern.below and pattern.path == "/"]
    if policy.anonymous:
        what = "it may write, and anybody may call it without a certificate (anonymous: true)"
        yield _at(method, "anonymous", "unauthenticated-write", what, _TO_READ)
    elif anyone:
        what = f"it may write, and any caller may call it without a token (callers: {', '.join(anyone)})"
        yield _at(method, "callers", "unauthenticated-write", what, _TO_READ)


_TO_READ = "name its callers or demand a token; if it only reads: option idempotency_level = NO_SIDE_EFFECTS"


def _token(method: Method, policy: Policy, known: Known) -> Iterator[Finding]:
    if policy.token is None:
        return
    if not known.issuers:
        what = "it demands a token, and no issuer is believed: its server will not start"
        yield _at(method, "token", "no-issuer", what, f"write a table [tokens.NAME] into {known.file}")
    if not policy.token.bound:
        what = "its token counts whoever brings it (bound: false)"
        yield _at(
            method, "bound", "unbound-token", what, "remove it, unless callers cannot do otherwise", note=True
        )


def _budgets(services: Mapping[str, Mapping[str, Method]], known: Known) -> dict[str, float]:
    """The longest that a call to each workload may take, in seconds, where every one has an end."""
    budgets: dict[str, float] = {}
    for name in known.serves.values():
        methods = [
            method.policy
            for service, owner in known.serves.items()
            if owner == name
            for method in services.get(service, {}).values()
        ]
        longest = [_longest(policy) for policy in methods]
        if longest and all(each is not None for each in longest):
            budgets[name] = max(each for each in longest if each is not None)
    return budgets


def _longest(policy: Policy | None) -> float | None:
    return None if policy is None or policy.deadline is None else policy.deadline.max_s


def _deadline(
    method: Method, policy: Policy, known: Known, budgets: Mapping[str, float], own: str | None
) -> Iterator[Finding]:
    """A time that no call can have: whoever calls inherits what is left of the call it serves."""
    longest = _longest(policy)
    for name in sorted(budgets):
        if name == own or longest is None or longest <= budgets[name]:
            continue
        if policy.admits(known.ids[name], known.trust_domain):
            what = f"its deadline of {longest:g} s is longer than its caller {name} has: {budgets[name]:g} s"
            next_step = f"shorten it, or lengthen what {name} may take"
            yield _at(method, "max", "deadline-over-budget", what, next_step)


def _at(method: Method, demand: str, kind: str, what: str, next_step: str, *, note: bool = False) -> Finding:
    return Finding(
        kind=kind,
        method=method.path,
        what=what,
        where=str(method.place(demand)),
        next_step=next_step,
        note=note,
    )


def wrong(found: Iterable[Finding]) -> bool:
    """Whether one of them is more than a note."""
    return any(not finding.note for finding in found)
