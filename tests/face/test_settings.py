"""What a process is told, and how it is told what is wrong with that."""

from pathlib import Path
from typing import Any

import pytest

from hauberk.errors import SettingsError
from hauberk.settings import Settings, parse_address

ENOUGH = {
    "HAUBERK_NAME": "prod/orders",
    "HAUBERK_STATE_DIR": "/var/lib/orders",
    "HAUBERK_ENROLMENT": "127.0.0.1:7000",
    "HAUBERK_ROOTS": "/etc/roots.pem",
}


def test_what_is_not_said_has_a_default() -> None:
    settings = Settings.load(ENOUGH)
    assert settings.name == "prod/orders"
    assert settings.state_dir == Path("/var/lib/orders")
    assert (settings.listen, settings.replica, settings.access_log) == ("127.0.0.1:0", "1", False)
    assert settings.drain_seconds == 10
    assert settings.advertise is None


def test_every_field_has_a_variable() -> None:
    settings = Settings.load(
        {
            **ENOUGH,
            "HAUBERK_TRUST_DOMAIN": "shop.test",
            "HAUBERK_JOIN_TOKEN_FD": "7",
            "HAUBERK_JOIN_TOKEN_FILE": "/run/token",
            "HAUBERK_LISTEN": "[::1]:443",
            "HAUBERK_ADVERTISE": "10.0.0.1",
            "HAUBERK_REPLICA": "b-2",
            "HAUBERK_ACCESS_LOG": "1",
            "HAUBERK_DRAIN_SECONDS": "2.5",
        }
    )
    assert settings.trust_domain == "shop.test"
    assert settings.join_token_fd == 7
    assert settings.join_token_file == Path("/run/token")
    assert settings.listen == "[::1]:443"
    assert settings.advertise == "10.0.0.1"
    assert settings.replica == "b-2"
    assert settings.access_log is True
    assert settings.drain_seconds == 2.5


def test_the_environment_wins_over_the_file_and_arguments_over_both(tmp_path: Path) -> None:
    file = tmp_path / "h.toml"
    file.write_text('listen = "127.0.0.1:1"\nreplica = 2\naccess_log = true\ndrain_seconds = 3\n')
    env = {**ENOUGH, "HAUBERK_CONFIG": str(file), "HAUBERK_LISTEN": "127.0.0.1:2"}
    settings = Settings.load(env, drain_seconds=4)
    assert settings.listen == "127.0.0.1:2"
    assert settings.replica == "2"
    assert settings.access_log is True
    assert settings.drain_seconds == 4


def test_the_control_plane_s_variables_are_not_ours() -> None:
    assert Settings.load({**ENOUGH, "HAUBERK_CONTROL_CONFIG": "mesh.toml"}).name == "prod/orders"


@pytest.mark.parametrize("missing", sorted(ENOUGH))
def test_what_is_missing_is_named_with_its_remedy(missing: str) -> None:
    with pytest.raises(SettingsError, match=rf"{missing} is missing: set it to "):
        Settings.load({name: value for name, value in ENOUGH.items() if name != missing})


@pytest.mark.parametrize(
    ("variable", "text", "remedy"),
    [
        ("HAUBERK_NAME", "Orders", "write a workload path"),
        ("HAUBERK_NAME", "a//b", "write a workload path"),
        ("HAUBERK_NAME", "", "not empty"),
        ("HAUBERK_ENROLMENT", "127.0.0.1", "not host:port"),
        ("HAUBERK_ENROLMENT", "127.0.0.1:0", "port 0 cannot be dialled"),
        ("HAUBERK_LISTEN", "127.0.0.1:99999", "not host:port"),
        ("HAUBERK_LISTEN", "127.0.0.1:-1", "not host:port"),
        ("HAUBERK_LISTEN", "::1:80", "in brackets"),
        ("HAUBERK_ADVERTISE", "host:port", "not host:port"),
        ("HAUBERK_TRUST_DOMAIN", "Shop.test", "write a trust domain"),
        ("HAUBERK_JOIN_TOKEN_FD", "-1", "number of a file descriptor"),
        ("HAUBERK_JOIN_TOKEN_FD", "three", "number of a file descriptor"),
        ("HAUBERK_REPLICA", "x" * 65, "at most 64"),
        ("HAUBERK_ACCESS_LOG", "yes", "write 1 or 0"),
        ("HAUBERK_DRAIN_SECONDS", "soon", "write seconds"),
        ("HAUBERK_DRAIN_SECONDS", "-1", "write seconds"),
        ("HAUBERK_DRAIN_SECONDS", "nan", "write seconds"),
        ("HAUBERK_MEMORY_LIMIT", "half", "write bytes"),
        ("HAUBERK_MEMORY_LIMIT", "-1", "write bytes"),
        ("HAUBERK_MEMORY_LIMIT", "4096", "write at least 1MiB"),
    ],
)
def test_a_wrong_value_is_named_with_its_remedy(variable: str, text: str, remedy: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.load({**ENOUGH, variable: text})
    assert str(caught.value).startswith(f"{variable} is ")
    assert remedy in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("variable", ["HAUBERK_LISTN", "HAUBERK_", "HAUBERK_name"])
def test_a_variable_nobody_knows(variable: str) -> None:
    with pytest.raises(SettingsError, match=rf"{variable} is no setting: correct or remove it"):
        Settings.load({**ENOUGH, variable: "x"})


def test_a_variable_nobody_knows_comes_with_the_one_that_was_meant_and_all_there_are() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.load({**ENOUGH, "HAUBERK_LISTN": "x"})
    said = str(caught.value)
    assert "did you mean HAUBERK_LISTEN? there are HAUBERK_ACCESS_LOG, HAUBERK_ADVERTISE, " in said


def test_a_token_in_the_environment_is_refused_unrepeated_with_where_it_belongs() -> None:
    with pytest.raises(
        SettingsError, match=r"HAUBERK_JOIN_TOKEN_FILE, or an .* HAUBERK_JOIN_TOKEN_FD"
    ) as caught:
        Settings.load({**ENOUGH, "HAUBERK_JOIN_TOKEN": "hbk1.secret"})
    assert str(caught.value).startswith("HAUBERK_JOIN_TOKEN is no setting: ")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("listn = 1", r"listn in .*h.toml is no setting: .*did you mean listen\? there are access_log, "),
        ("listen = 1", r"listen in .*h.toml is 1: write a text"),
        ("access_log = 2", r"access_log in .*h.toml is 2: write 1 or 0"),
        ("[nested]\nname = 'x'", r"nested in .*h.toml is no setting"),
        ("= =", r"HAUBERK_CONFIG: .*h.toml is not TOML"),
    ],
)
def test_a_wrong_file(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "h.toml"
    file.write_text(content)
    with pytest.raises(SettingsError, match=message):
        Settings.load({**ENOUGH, "HAUBERK_CONFIG": str(file)})


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"HAUBERK_CONFIG: cannot read .*missing.toml"):
        Settings.load({**ENOUGH, "HAUBERK_CONFIG": str(tmp_path / "missing.toml")})


@pytest.mark.parametrize("overrides", [{"listn": "x"}, {"listen": 3}, {"name": None}])
def test_wrong_arguments(overrides: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(overrides))):
        Settings.load(ENOUGH, **overrides)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("[::1]:65535", ("[::1]", 65535)),
        ("localhost:80", ("localhost", 80)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address
