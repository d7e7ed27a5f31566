"""What the control plane is told, and how it says what is wrong with it."""

from datetime import timedelta
from pathlib import Path

import pytest

from hauberk.services.control.settings import ConfigError, ControlSettings, Listen

MINIMAL = 'trust_domain = "shop.test"\n'


def load(folder: Path, text: str, **environment: str) -> ControlSettings:
    (folder / "mesh.toml").write_text(text)
    return ControlSettings.load(
        {
            "HAUBERK_CONTROL_CONFIG": str(folder / "mesh.toml"),
            "HAUBERK_CONTROL_STATE": str(folder / ".hauberk"),
            **environment,
        }
    )


def test_a_trust_domain_is_enough(tmp_path: Path) -> None:
    settings = load(tmp_path, MINIMAL)
    assert settings.trust_domain == "shop.test"
    assert settings.listen == settings.enrolment_listen == Listen(host="127.0.0.1", port=0)
    assert (settings.dns_names, settings.ip_addresses) == ((), ("127.0.0.1",))
    assert settings.svid_lifetime == timedelta(hours=1)
    assert settings.database == f"sqlite:///{tmp_path}/.hauberk/control/control.db"
    assert (settings.operator_token_fd, settings.ca_passphrase_file, settings.access_log) == (
        None,
        None,
        False,
    )


def test_everything_can_be_said(tmp_path: Path) -> None:
    text = MINIMAL + (
        '[control]\nlisten = "0.0.0.0:7000"\nenrolment_listen = "[::1]:7001"\nsvid_lifetime = "20s"\n'
        'names = ["10.0.0.1", "control.example", "::1"]\ndatabase = "postgresql://db/control"\n'
        'ca_passphrase_file = "secret"\n'
        '[workloads.orders]\ncommand = ["not", "read", "here"]\n'
    )
    (tmp_path / "secret").write_bytes(b"hunter2 \r\n")
    settings = load(
        tmp_path,
        text,
        HAUBERK_CONTROL_OPERATOR_TOKEN_FD="7",
        HAUBERK_ACCESS_LOG="1",
    )
    assert (settings.dns_names, settings.ip_addresses) == (("control.example",), ("10.0.0.1", "::1"))
    assert (str(settings.enrolment_listen), settings.svid_lifetime) == ("[::1]:7001", timedelta(seconds=20))
    assert (settings.database, settings.operator_token_fd) == ("postgresql://db/control", 7)
    assert settings.ca_passphrase() == b"hunter2 "
    assert settings.access_log
    assert settings.target(settings.listen, 7000) == "10.0.0.1:7000"
    assert settings.target(settings.enrolment_listen, 7001) == "[::1]:7001"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "trust domain is not"),
        ("trust_domain = 7", "trust_domain is not a string: 7"),
        ('trust_domain = "Shop"', "trust domain is not lower-case"),
        ("trust_domain", "not toml"),
        (MINIMAL + "control = 7", "[control]: not a table"),
        (
            MINIMAL + "[control]\nlissten = 1",
            "unknown key 'lissten'; known are ca_passphrase_file, database, enrolment_listen",
        ),
        (MINIMAL + '[control]\nlisten = "nowhere"', "not host:port: 'nowhere'"),
        (MINIMAL + '[control]\nlisten = ":80"', "not host:port"),
        (MINIMAL + '[control]\nlisten = "a:70000"', "not host:port"),
        (MINIMAL + '[control]\nlisten = "a:-1"', "not host:port"),
        (MINIMAL + '[control]\nsvid_lifetime = "1 h"', "no duration like"),
        (MINIMAL + '[control]\nsvid_lifetime = "9s"', "not between 10s and 1d"),
        (MINIMAL + '[control]\nsvid_lifetime = "2d"', "not between 10s and 1d"),
        (MINIMAL + '[control]\nsvid_lifetime = "999999d"', "not between 10s and 1d"),
        (MINIMAL + "[control]\nsvid_lifetime = 60", "svid_lifetime is not a string"),
        (MINIMAL + "[control]\nnames = []", "names is not a list of one or more"),
        (MINIMAL + "[control]\nnames = [1]", "names is not a list of one or more"),
        (MINIMAL + '[control]\nnames = ["No Name"]', "not a lower-case dns name"),
    ],
)
def test_a_bad_file_is_refused_in_one_line_that_names_it(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, text)
    assert says in str(refused.value)
    assert str(refused.value).startswith(str(tmp_path / "mesh.toml"))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("missing", ["HAUBERK_CONTROL_CONFIG", "HAUBERK_CONTROL_STATE"])
def test_both_paths_are_needed(tmp_path: Path, missing: str) -> None:
    with pytest.raises(ConfigError, match=f"{missing} is not set"):
        load(tmp_path, MINIMAL, **{missing: ""})


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.toml: No such file"):
        load(tmp_path, MINIMAL, HAUBERK_CONTROL_CONFIG=str(tmp_path / "gone.toml"))


def test_a_descriptor_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no file descriptor: '-1'"):
        load(tmp_path, MINIMAL, HAUBERK_CONTROL_OPERATOR_TOKEN_FD="-1")


def test_a_passphrase_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    settings = load(tmp_path, MINIMAL + '[control]\nca_passphrase_file = "gone"\n')
    with pytest.raises(ConfigError, match=r"\[control\] ca_passphrase_file: .*gone: No such file"):
        settings.ca_passphrase()
