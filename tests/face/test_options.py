"""Options of core: one of each name, the user's first, but for the age of a connection."""

import pytest

from hauberk.certs.rotation import Schedule
from hauberk.options import CHANNEL, Option, merged, server_options

HOURLY = Schedule.of(3600)


def test_a_user_s_option_takes_the_place_of_ours() -> None:
    options = server_options(HOURLY, [("grpc.max_receive_message_length", 10)])
    assert [value for name, value in options if name == "grpc.max_receive_message_length"] == [10]


def test_options_we_do_not_know_are_kept() -> None:
    assert ("grpc.lb_policy_name", "x") in server_options(HOURLY, [("grpc.lb_policy_name", "x")])


def test_of_repeated_options_the_last_holds() -> None:
    assert merged([("a", 1), ("b", 1)], [("b", 2), ("c", 3), ("b", 4)]) == [("a", 1), ("b", 4), ("c", 3)]


@pytest.mark.parametrize("lifetime", [10, 20, 600, 3600, 86400])
def test_connections_age_by_the_schedule(lifetime: float) -> None:
    schedule = Schedule.of(lifetime)
    options = dict(server_options(schedule))
    assert options["grpc.max_connection_age_ms"] == round(schedule.max_connection_age * 1000)
    assert options["grpc.max_connection_age_grace_ms"] == round(schedule.grace * 1000)


@pytest.mark.parametrize(
    ("user", "age"),
    [(("grpc.max_connection_age_ms", 10**9), 720_000), (("grpc.max_connection_age_ms", 1000), 1000)],
)
def test_no_option_lets_a_connection_outlive_its_certificate(user: Option, age: int) -> None:
    assert dict(server_options(HOURLY, [user]))["grpc.max_connection_age_ms"] == age


def test_our_clients_keep_alive_no_faster_than_our_servers_allow() -> None:
    allowed = dict(server_options(HOURLY))["grpc.http2.min_ping_interval_without_data_ms"]
    assert int(dict(CHANNEL)["grpc.keepalive_time_ms"]) >= int(allowed)


def test_a_port_is_shared_with_nobody() -> None:
    assert ("grpc.so_reuseport", 0) in server_options(HOURLY)
