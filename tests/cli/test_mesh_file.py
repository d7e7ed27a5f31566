"""mesh.toml: what is read, and for all that can be wrong an error that says what, where and what to do."""

from pathlib import Path

import pytest

from hauberk.cli.errors import MeshFileError
from hauberk.cli.mesh_file import parse, read, seconds

TD = 'trust_domain = "shop.test"\n'
ORDERS = TD + '[workloads.orders]\ncommand = ["python", "-m", "orders"]\n'
ONCE = ORDERS + '[once]\nworkload = "gateway"\ncommand = ["x"]\n'

TOKENS = '[tokens.login]\nissuer = "https://a.test"\njwks = "keys.json"\n'

SERVES = ORDERS + 'serves = ["a.v1.B"]\n'
SERVING = SERVES + '[policy."/a.v1.B/C"]\n'
REFUSED = [
    # what is written, what is said, what to do about it
    ("trust_domain = ", "mesh.toml: not toml: Invalid value (at end of document)", "correct that line"),
    ("", "mesh.toml: trust_domain is missing", 'trust_domain = "shop.test"'),
    ('trust_domain = "Shop.Test"', "mesh.toml: trust_domain: trust domain is not lower-case", "shop.test"),
    ('trust_domain = "shop_1.test"', "mesh.toml: trust_domain: not a lower-case dns name", "shop.test"),
    ("trust_domain = 3", "mesh.toml: trust_domain: expected `str`, got `int`", "a list in brackets"),
    (TD + "tokens = 1", "mesh.toml: tokens: expected `object`, got `int`", "a list in brackets"),
    (TD + "[tokens]\nlogin = 1", "mesh.toml: [tokens.login] expected `object`, got `int`", "who issues"),
    (TD + "[tokens.login]", "mesh.toml: [tokens.login] object missing required field `issuer`", "who issues"),
    (
        TD + TOKENS + "isuer = 1",
        "mesh.toml: [tokens.login] object contains unknown field `isuer`",
        "who issues",
    ),
    (TD + TOKENS + 'algorithm = "none"', "[tokens.login] algorithm is none of ES256, RS256: 'none'", "who"),
    (TD + "contrl = 1", "mesh.toml: unknown key 'contrl'", "write control"),
    (
        TD + "zzz = 1",
        "mesh.toml: unknown key 'zzz'",
        "known here: trust_domain, control, workloads, tokens, policy, once",
    ),
    (TD + "control = 1", "mesh.toml: control: expected `object`, got `int`", "a list in brackets"),
    (TD + "workloads = 1", "mesh.toml: workloads: expected `object`, got `int`", "a list in brackets"),
    (TD + '[control]\nlisen = "x"', "mesh.toml: [control] unknown key 'lisen'", "write listen"),
    (TD + '[control]\nlisten = "x"', "mesh.toml: [control] listen: not host:port: 'x'", '"127.0.0.1:0"'),
    (TD + '[control]\nlisten = "a:99999"', "mesh.toml: [control] listen: not host:port", '"127.0.0.1:0"'),
    (TD + '[control]\nenrolment_listen = ":1"', "[control] enrolment_listen: not host:port", '"127.0.0.1:0"'),
    (TD + "[control]\nnames = []", "mesh.toml: [control] names is empty", '["127.0.0.1"]'),
    (TD + '[control]\nnames = ["A.b"]', "mesh.toml: [control] names: not a lower-case dns name", "127.0.0.1"),
    (TD + '[control]\nnames = "a"', "mesh.toml: [control] names: expected `array`, got `str`", "brackets"),
    (TD + '[control]\nsvid_lifetime = "1"', "[control] svid_lifetime: not a duration of 10s to 1d", '"1h"'),
    (TD + '[control]\nsvid_lifetime = "1w"', "[control] svid_lifetime: not a duration of 10s to 1d", '"1h"'),
    (TD + '[control]\nsvid_lifetime = "9s"', "[control] svid_lifetime: not a duration of 10s to 1d", '"1h"'),
    (TD + '[control]\nsvid_lifetime = "2d"', "[control] svid_lifetime: not a duration of 10s to 1d", '"1h"'),
    (TD + "[workloads.a]\n", "mesh.toml: [workloads.a] command is missing", 'command = ["python"'),
    (TD + "[workloads.a]\ncommand = []", "mesh.toml: [workloads.a] command is empty", 'command = ["python"'),
    (TD + '[workloads.a]\ncommand = ["x\\u0000"]', "mesh.toml: [workloads.a] command holds a NUL", "remove"),
    (TD + '[workloads.a]\ncommand = "x"', "mesh.toml: [workloads.a] command: expected `array`", "brackets"),
    (TD + '[workloads.Orders]\ncommand = ["x"]', "[workloads.Orders] workload's name: ", "lower-case words"),
    (
        TD + '[workloads.control]\ncommand = ["x"]',
        "name is reserved for the control plane",
        "lower-case words",
    ),
    (TD + '[workloads."operators/me"]\ncommand = ["x"]', "operators/ is for people", "what it does"),
    (TD + '[workloads."a..b"]\ncommand = ["x"]', "[workloads.a..b] workload's name: ", "lower-case words"),
    (ORDERS + 'serve = ["a.B"]', "mesh.toml: [workloads.orders] unknown key 'serve'", "write serves"),
    (ORDERS + 'serves = ["Orders"]', "[workloads.orders] serves: not a service's full name", "a.Orders"),
    (ORDERS + 'serves = ["a/B"]', "[workloads.orders] serves: not a service's full name", "v1.Orders"),
    (ORDERS + "serves = [1]", "mesh.toml: [workloads.orders] serves: expected `str`, got `int`", "brackets"),
    (ORDERS + "replicas = 0", "mesh.toml: [workloads.orders] replicas: 0 is not 1 to 64", "how many"),
    (ORDERS + "replicas = 65", "mesh.toml: [workloads.orders] replicas: 65 is not 1 to 64", "how many"),
    (ORDERS + 'replicas = 2\nlisten = "h:7"', "replicas cannot share h:7", "free port"),
    (ORDERS + 'listen = "7"', "mesh.toml: [workloads.orders] listen: not host:port: '7'", "127.0.0.1:0"),
    (ORDERS + 'env = { "A-B" = "" }', "[workloads.orders] env: not a variable's name: 'A-B'", "rename it"),
    (ORDERS + 'env = { HAUBERK_NAME = "x" }', "env: HAUBERK_NAME is set by hauberk up", "remove it"),
    (ORDERS + "env = { A = 1 }", "mesh.toml: [workloads.orders] env: expected `str`, got `int`", "brackets"),
    (
        TD
        + '[workloads.a]\ncommand = ["x"]\nserves = ["s.S"]\n'
        + '[workloads.b]\ncommand = ["x"]\nserves = ["s.S"]\n',
        "mesh.toml: [workloads.b] serves: s.S is served by a already",
        "more replicas",
    ),
    (ORDERS + '[once]\ncommand = ["x"]', "mesh.toml: [once] workload is missing", 'workload = "gateway"'),
    (ORDERS + '[once]\nworkload = "g"', "mesh.toml: [once] command is missing", 'command = ["python"'),
    (ONCE + 'through = ["payments"]', "[once] through: no such workload: 'payments'", "here: orders"),
    (TD + "policy = 1", "mesh.toml: policy: expected `object`, got `int`", "a list in brackets"),
    (SERVING + "callrs = []", "[policy.\"/a.v1.B/C\"] unknown key 'callrs'", "write callers"),
    (SERVING + "x = 1", "[policy.\"/a.v1.B/C\"] unknown key 'x'", "callers, deadline, token, quota"),
    (SERVING, 'mesh.toml: [policy."/a.v1.B/C"] it says nothing', "policy.proto"),
    (SERVING + 'callers = ["A"]', "not a caller: 'A'", "policy.proto"),
    (SERVING + "callers = 1", '[policy."/a.v1.B/C"] callers: ', "as in JSON"),
    (
        SERVING + 'deadline = { maxx = "1s" }',
        'deadline: message type "Deadline" has no field named "maxx"',
        "as",
    ),
    (
        SERVING + 'deadline = { max = "soon" }',
        '[policy."/a.v1.B/C"] deadline: duration must end with letter',
        '"3s"',
    ),
    (SERVING + 'deadline = { max = "0s" }', "deadline.max is not a positive duration", "policy.proto"),
    (SERVING + 'priority = "HIGHEST"', '[policy."/a.v1.B/C"] priority: invalid enum value HIGHEST', "JSON"),
    (SERVING + 'token = { scopes = ["a b"] }', "token.scopes: not a scope: 'a b'", "policy.proto"),
    (SERVING + 'callers = ["a"]\nshadow = ["quota"]', "shadow: 'quota' is not said here", "policy.proto"),
    (SERVING + "audit = true\nshadow = true", "shadow: audit cannot be tried", "policy.proto"),
    (SERVING + "audit = true\nshadow = 1", "shadow is neither true nor a list of demands", '["token"]'),
    (SERVES + '[policy."/a.v1.C/D"]\naudit = true', "no workload serves a.v1.C", "services here: a.v1.B"),
    (SERVES + '[policy."a.v1.B/C"]\naudit = true', "not a method, as in", "policy.proto"),
    (SERVES + '[policy]\n"/a.v1.B/C" = 1', '[policy."/a.v1.B/C"] is no table', "its demands below"),
    (ORDERS + '[once]\nworkload = "G"\ncommand = ["x"]', "[once] workload's name: ", "lower-case words"),
]


@pytest.mark.parametrize(("text", "what", "remedy"), REFUSED, ids=[row[1] for row in REFUSED])
def test_what_is_wrong_is_said_with_its_place_and_remedy(text: str, what: str, remedy: str) -> None:
    with pytest.raises(MeshFileError) as caught:
        parse(text)
    assert what in caught.value.message
    assert remedy.removeprefix("a.") in caught.value.next_step
    assert "\n" not in caught.value.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MeshFileError, match=f"no mesh file: {tmp_path}/mesh.toml"):
        read(tmp_path / "mesh.toml")


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "mesh.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(MeshFileError, match="cannot be read"):
        read(tmp_path / "mesh.toml")


def test_the_shop_of_the_repository_is_read() -> None:
    mesh = read(Path(__file__).parents[2] / "mesh.toml")
    assert list(mesh.workloads) == ["catalog", "payments", "orders"]
    assert str(mesh.id_of("orders")) == "spiffe://shop.test/orders"
    assert mesh.workloads["orders"].serves == ("shop.orders.v1.Orders",)
    assert mesh.once is not None
    assert set(mesh.once.through) == set(mesh.workloads)


def test_what_is_not_written_has_defaults_that_suit_one_machine() -> None:
    mesh = parse(ORDERS)
    assert mesh.control.listen == mesh.workloads["orders"].listen == "127.0.0.1:0"
    assert mesh.workloads["orders"].replicas == 1
    assert mesh.once is None


def test_only_dns_names_among_the_control_planes_names_concern_the_authority() -> None:
    mesh = parse(TD + '[control]\nnames = ["127.0.0.1", "::1", "control.example", "localhost"]')
    assert mesh.control.dns_names == ("control.example", "localhost")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90s", 90), ("10m", 600), ("1h", 3600), ("2d", 172800), ("1", None), ("-1s", None), ("1.5h", None)],
)
def test_durations_are_a_number_and_a_unit(text: str, expected: int | None) -> None:
    assert seconds(text) == expected
