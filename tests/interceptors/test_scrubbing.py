"""What is taken out of the text of an exception before it stands in our log, and what is left."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hauberk.interceptors.failures import told
from hauberk.interceptors.scrubbing import HIDDEN, LONGEST, redacted_values, scrubbed
from hauberk.protos.hauberk.control.v1 import admin_pb2

KEY = "-----BEGIN PRIVATE KEY-----\nMIGHcanary\nAgEA\n-----END PRIVATE KEY-----"


@pytest.mark.parametrize(
    "text",
    [
        f"cannot load {KEY} from disk",
        f"cannot load {KEY!r} from disk",
        "-----BEGIN EC PRIVATE KEY-----\nMIGHcanary\nAg",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----canary",
        "cannot connect to postgresql://shop:canary@db:5432/shop?sslmode=require",
        "cannot connect to postgresql+psycopg://shop:ca/na@ry:canary@db/shop",
        "redis://:canary@cache",
        "https://canary@example.test/",
        "authorization: Bearer canary",
        "Bearer canary-canary refused",
        "header ('authorization', 'Basic Y2FuYXJ5Y2FuYXJ5')".replace("Y2FuYXJ5", "canary"),
        "token eyJhbGciOiJFUzI1NiJ9.canary.canary is no good",
        "no such token: hbk1.canaryAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "password=canary",
        "password = 'canary with spaces'",
        "db password is canary",
        "secret: db password is canary",
        "the password was: canary",
        "{'user': 'bob', 'password': 'canary'}",
        '{"client_secret":"canary"}',
        'PASSWORD="can\\"ary canary"',
        "DB_PASSWORD=canary;Timeout=3",
        "passwd:canary",
        "Pwd=canary",
        "api_key=canary",
        "X-API-Key: canary",
        "aws_secret_access_key = canary",
        "AccessKey => canary",
        "session_id=canary",
        "Set-Cookie: canary",
        'join_token: "canary"',
        "wrong password 'canary'",
        "wrong password canary123",
        "passphrase=canary",
        "?user=bob&password=canary&x=1",
        "cvv=canary",
        "(IntegrityError) UNIQUE [SQL: INSERT INTO users VALUES (?, ?)]\n[parameters: ('bob', 'canary')]",
    ],
)
def test_secret_is_taken_out(text: str) -> None:
    found = scrubbed(text)
    assert "canary" not in found
    assert HIDDEN in found


@pytest.mark.parametrize(
    "text",
    [
        "no such product: APPLE-1",
        "database or disk is full",
        "token expired",
        "password authentication failed for user 'shop'",
        "https://example.test/a?b=c",
        "[Errno 2] No such file or directory: '/srv/shop/secrets/db'",
        "trace 0af7651916cd43dd8448eb211c80319c",
        "spiffe://shop.test/orders is not allowed",
        "-----BEGIN CERTIFICATE----- MIIB",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert scrubbed(text) == text


def test_values_that_are_known_go_wherever_they_stand() -> None:
    assert scrubbed("say friend-7 and enter", ["friend-7"]) == f"say {HIDDEN} and enter"


def test_secrets_of_the_environment_go_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_API_TOKEN", "canary-token")
    monkeypatch.setenv("DATABASE_URL", "postgresql://shop:canary-db@localhost/shop")
    monkeypatch.setenv("SHOP_SECRET_FILE", "/run/shop")
    assert (
        scrubbed("sent canary-token to canary-db by /run/shop") == f"sent {HIDDEN} to {HIDDEN} by /run/shop"
    )


def test_secret_that_is_cut_where_we_stop_looking_is_not_shown() -> None:
    for length in range(7900, 8010):
        assert "can" not in scrubbed("=" * length + " known-canary " + "x" * 100, ["known-canary"])


@given(st.text(), st.lists(st.text()))
def test_any_text_becomes_one_printable_line_of_bounded_length(text: str, known: list[str]) -> None:
    found = scrubbed(text * 50, known)
    assert found.isprintable()
    assert len(found) < LONGEST * 10 + 50


@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "password",
        "password ",
        "eyJ",
        "eyJa.",
        "://",
        "://a",
        "-----BEGIN PRIVATE KEY-----",
        "token=",
        '="',
    ],
)
def test_no_text_takes_long(piece: str) -> None:
    began = time.process_time()
    scrubbed(piece * (1_000_000 // len(piece)))
    assert time.process_time() - began < 0.5


def test_fields_that_the_contract_redacts_are_found() -> None:
    message = admin_pb2.InviteResponse(join_token="canary", spiffe_id="spiffe://shop.test/orders")
    assert list(redacted_values(message)) == ["canary"]


def test_text_is_without_what_the_messages_at_hand_hold_in_redacted_fields() -> None:
    def method(request: admin_pb2.InviteResponse) -> None:
        raise ValueError(f"what shall I do with {request.join_token}?")

    try:
        method(admin_pb2.InviteResponse(join_token="canary-1"))
    except ValueError as error:
        said = told(error)
    assert f"ValueError: what shall I do with {HIDDEN}?" in said
    assert "canary" not in said


def test_source_is_not_told_since_a_literal_may_be_the_secret() -> None:
    try:
        raise ValueError("literal canary"[:7])
    except ValueError as error:
        said = told(error)
    assert "ValueError: literal" in said
    assert "canary" not in said
    assert "test_scrubbing.py:" in said
