"""Every check of the guard, in the order in which they are asked, with a call that each refuses."""

from datetime import timedelta

import grpc

from hauberk.certs.credentials import anonymous_server_credentials
from hauberk.certs.watch import Watch
from hauberk.interceptors import errors
from hauberk.interceptors.demands import ClaimRule, DeadlineRule, QuotaRule, TokenRule
from hauberk.interceptors.policy import callers
from tests.interceptors import wrongs
from tests.interceptors.matrix import (
    ONE_REQUEST,
    Row,
    Runs,
    claims,
    good_token,
    handshake,
    message,
    metadata,
    peer,
    row,
    token,
)
from tests.interceptors.matrix_scene import FAIL, GOOD, LINGER, ME, OTHER_DOMAIN, REFUSE, Scene, Sent, ask
from tests.interceptors.token_calls import bearer
from tests.interceptors.token_forge import bound_to

FIVE = {"quotas": (QuotaRule(limit=5, per_s=3600, burst=5, cost="cost"),)}

ROWS: tuple[Row, ...] = (
    handshake(lambda scene: grpc.ssl_channel_credentials(scene.stage.authority.bundle.pem())),
    handshake(lambda scene: scene.shown_by_stranger(ME)),
    row(
        "door",
        errors.IdentityUnfit,
        wrong=lambda scene: wrongs.door(scene, "unfit", "the clock is wrong", ""),
    ),
    row("door", errors.Draining, wrong=lambda scene: wrongs.door(scene, "draining", True, False)),
    row("door", errors.MemoryShort, wrong=lambda scene: wrongs.door(scene, "memory_short", True, False)),
    peer(
        "NO_CERTIFICATE",
        server=lambda scene: anonymous_server_credentials(Watch(scene.known("server"))),
        allowed=Sent(method="Open"),
    ),
    peer("TLS_VERSION", refused=Sent(tls_1_2=True)),
    peer(
        "NOT_A_SPIFFE_ID",
        server=Scene.open_door,
        refused=Sent(credentials=lambda scene: scene.shown_by_stranger(f"https://{OTHER_DOMAIN}/gateway")),
    ),
    peer("SVID_NOT_YET_VALID", wrong=lambda scene: wrongs.passed(scene, -timedelta(days=1))),
    peer("SVID_EXPIRED", wrong=lambda scene: wrongs.passed(scene, timedelta(hours=2))),
    peer("REVOKED", wrong=wrongs.revoked),
    peer(
        "UNTRUSTED_ISSUER",
        server=Scene.open_door,
        refused=Sent(credentials=lambda scene: scene.shown_by_stranger(ME)),
    ),
    row("check_metadata", errors.MetadataRefused, refused=Sent(metadata=metadata(("hauberk-role", "admin")))),
    row("check_metadata", errors.MetadataTooLarge, refused=Sent(metadata=metadata(("x-bin", b"\0" * 8200)))),
    row(
        "enter",
        errors.TooManyInFlight,
        guard=lambda scene: {"in_flight_per_peer": 1},
        wrong=wrongs.held,
        others=1,
    ),
    row("enter", errors.RepliesUnread, wrong=wrongs.unread),
    row("_unknown", errors.UnknownMethod, refused=Sent(method="Nothing")),
    row(
        "check_callers", errors.Forbidden, said={"callers": callers("orders")}, allowed=Sent(caller="orders")
    ),
    row("check_callers", errors.Forbidden, said={"callers": ()}, allowed=Sent(method="Open")),
    row(
        "check_callers",
        errors.Forbidden,
        server=Scene.open_door,
        wrong=wrongs.federated,
        refused=Sent(credentials=lambda scene: scene.shown_by_stranger(f"spiffe://{OTHER_DOMAIN}/gateway")),
    ),
    row(
        "check_deadline",
        errors.DeadlineRequired,
        said={"deadline": DeadlineRule(required=True)},
        refused=Sent(within=None),
    ),
    row("check_deadline", errors.DeadlinePassed, refused=Sent(metadata=metadata(("hauberk-budget", "0")))),
    row(
        "check_token",
        errors.Unidentified,
        reason="TOKEN_MISSING",
        said={"token": TokenRule(bound=False)},
        guard=lambda scene: {"tokens": scene.forge.tokens()},
        allowed=Sent(metadata=good_token),
    ),
    token("TOKEN_SCHEME", lambda scene: "", refused=Sent(metadata=metadata(("authorization", "Basic YTpi")))),
    token("TOKEN_TOO_LARGE", lambda scene: scene.forge.token(more="x" * 5000)),
    token("TOKEN_MALFORMED", lambda scene: "no.token"),
    token("TOKEN_HEADER", lambda scene: scene.forge.token(header=scene.forge.header(jku="https://a.test"))),
    token("TOKEN_ISSUER_UNKNOWN", lambda scene: scene.forge.token(iss="https://other.test")),
    token("TOKEN_ALGORITHM", lambda scene: scene.forge.token(header=scene.forge.header(alg="RS256"))),
    token("TOKEN_TYPE", lambda scene: scene.forge.token(header=scene.forge.header(typ="JWT"))),
    token("TOKEN_KEY_UNKNOWN", lambda scene: scene.forge.token(header=scene.forge.header(kid="k-2"))),
    token("TOKEN_SIGNATURE", lambda scene: scene.forge.token(key=scene.forge.stranger)),
    token("TOKEN_AUDIENCE", lambda scene: scene.forge.token(aud="spiffe://mesh.test/orders")),
    token("TOKEN_TIMES", lambda scene: scene.forge.token(exp="never")),
    token("TOKEN_LIFETIME", lambda scene: scene.forge.token(exp=scene.forge.now + 86400)),
    token(
        "TOKEN_EXPIRED", lambda scene: scene.forge.token(iat=scene.forge.now - 60, exp=scene.forge.now - 1)
    ),
    token("TOKEN_NOT_YET_VALID", lambda scene: scene.forge.token(nbf=scene.forge.now + 300)),
    token("TOKEN_SUBJECT", lambda scene: scene.forge.token(sub="")),
    token("TOKEN_ID", lambda scene: scene.forge.token(jti="")),
    token("TOKEN_KEYS_STALE", lambda scene: scene.forge.token(), wrong=wrongs.stale),
    token("TOKEN_OF_ANOTHER_CERTIFICATE", lambda scene: scene.forge.token(), bound=True),
    token(
        "TOKEN_OF_ANOTHER_CERTIFICATE",
        lambda scene: scene.forge.token(cnf=bound_to(scene.thumbprint("orders"))),
        bound=True,
    ),
    row(
        "check_token",
        errors.TokenChecksSpent,
        said={"token": TokenRule(bound=False)},
        guard=lambda scene: {"tokens": scene.forge.tokens(failures_per_s=1)},
        wrong=wrongs.failed_before,
        refused=Sent(metadata=lambda scene: bearer(scene.forge.token(jti="t-2"))),
        allowed=Sent(caller="orders", metadata=good_token),
        others=1,
        retry=True,
    ),
    claims("check_roles", "ROLE_MISSING", TokenRule(roles=("clerk",), bound=False), roles=["clerk"]),
    claims("check_scopes", "SCOPE_MISSING", TokenRule(scopes=("read",), bound=False), scope="read"),
    claims("check_claim", "CLAIM_MISSING", TokenRule(claims=(ClaimRule("a"),), bound=False), a=1),
    row(
        "check_quota",
        errors.QuotaSpent,
        said={"quotas": (QuotaRule(limit=1, per_s=3600, burst=1),)},
        wrong=lambda scene: wrongs.spent(scene, GOOD),
        allowed=Sent(caller="orders"),
        retry=True,
        others=1,
    ),
    row(
        "check_quotas",
        errors.QuotaSpent,
        said=FIVE,
        wrong=lambda scene: wrongs.spent(scene, ask(cost=5)),
        allowed=Sent(caller="orders"),
        shapes=ONE_REQUEST,
        retry=True,
        others=1,
    ),
    row(
        "begin",
        errors.AuditUnwritable,
        said={"audit": True},
        wrong=wrongs.unwritable,
    ),
    row(
        "first message",
        errors.DeadlinePassed,
        guard=lambda scene: {"first_message_s": 0.05},
        refused=Sent(asks=(), silent=True, within=None),
        shapes=ONE_REQUEST,
    ),
    row("first message", errors.MessageMissing, refused=Sent(asks=()), shapes=ONE_REQUEST),
    *message("message_check", errors.MessageTooLarge, ask(name="x" * 200)),
    *message("message_check", errors.TooManyItems, ask(items=[1] * 50)),
    *message("read_message", errors.MessageUnreadable, b"\x0a\xff"),
    *message("check_rules", errors.MessageInvalid, ask(name="a" * 11)),
    Row(
        check="check_rules",
        refusal=errors.RuleFailed,
        code="INTERNAL",
        reason="INTERNAL",
        refused=Sent(asks=(ask(kept={"other": "x"}),)),
        runs=Runs.STREAMS,
    ),
    row(
        "charge",
        errors.QuotaSpent,
        said=FIVE,
        wrong=lambda scene: wrongs.spent(scene, ask(cost=3)),
        refused=Sent(asks=(ask(cost=3),)),
        shapes=ONE_REQUEST,
        retry=True,
        others=1,
    ),
    row(
        "charge",
        errors.QuotaSpent,
        reason="COST_OVER_BURST",
        said=FIVE,
        refused=Sent(asks=(ask(cost=6),)),
        shapes=ONE_REQUEST,
    ),
    row(
        "overload",
        errors.Overloaded,
        guard=lambda scene: {"workers": 1} if scene.threaded else {"in_flight_most": 1},
        wrong=wrongs.busy,
        refused=Sent(within=2),
        retry=True,
        others=1,
    ),
    row("servant", errors.UnknownMethod, reason="METHOD_NOT_IMPLEMENTED", refused=Sent(method="Left")),
    row(
        "standing",
        errors.DeadlinePassed,
        said={"deadline": DeadlineRule(max_s=0.2)},
        refused=Sent(asks=(ask(name=LINGER),)),
        runs=Runs.ALWAYS,
    ),
    row(
        "standing",
        errors.DeadlinePassed,
        said={"deadline": DeadlineRule(default_s=0.2)},
        refused=Sent(asks=(ask(name=LINGER),), within=None),
        runs=Runs.ALWAYS,
    ),
    row(
        "standing",
        errors.Unidentified,
        reason="REVOKED",
        wrong=wrongs.revoked_meanwhile,
        refused=Sent(asks=(ask(name=LINGER),)),
        runs=Runs.ALWAYS,
    ),
    row(
        "standing",
        errors.Draining,
        wrong=wrongs.cleared_meanwhile,
        refused=Sent(asks=(ask(name=LINGER),)),
        runs=Runs.ALWAYS,
    ),
    row("method", errors.Refused, refused=Sent(asks=(ask(name=REFUSE),)), runs=Runs.ALWAYS),
    Row(
        check="method",
        refusal=ValueError,
        code="INTERNAL",
        reason="INTERNAL",
        refused=Sent(asks=(ask(name=FAIL),)),
        runs=Runs.ALWAYS,
    ),
)
