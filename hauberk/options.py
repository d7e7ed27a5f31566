"""What gRPC core is told about limits, keepalive and connection age, on every server and channel.

Core takes the first of two options of one name, so defaults and a user's options are merged by name: neither
`defaults + user` (the user's would be dead) nor `user + defaults` (a limit could be dropped unseen) does it.
"""

from collections.abc import Iterable, Sequence

from hauberk.certs.rotation import Schedule

Option = tuple[str, int | str]

KIB = 1024
MIB = 1024 * KIB

# absolute_max_metadata_size equals max_metadata_size: in between, core refuses at random.
# settings_timeout: metadata limits bind a client only once it acknowledged our settings (default: a minute).
# keepalive: a client that froze or was cut off holds its calls, and what they hold, for 4 s at most.
# min_ping_interval_without_data_ms lies under the keepalive of CHANNEL, or we would cut off our own clients.
# ping_timeout_ms: without it core waits a minute for a keepalive's answer, whatever keepalive_timeout says.
# Left alone: grpc.server.max_pending_requests. Callers are told of its overflow as CANCELLED: nobody retries.
_SERVER: tuple[Option, ...] = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", 100),
    ("grpc.max_send_message_length", 4 * MIB),
    ("grpc.max_metadata_size", 8 * KIB),
    ("grpc.absolute_max_metadata_size", 8 * KIB),
    ("grpc.http2.settings_timeout", 5_000),
    ("grpc.server_handshake_timeout_ms", 5_000),
    ("grpc.max_allowed_incoming_connections", 1_000),
    ("grpc.max_connection_idle_ms", 300_000),
    ("grpc.keepalive_time_ms", 2_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.http2.ping_timeout_ms", 2_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 250),
    ("grpc.http2.max_ping_strikes", 2),
)

# keepalive: a server that froze or was cut off is noticed 0.9 to 1.7 s later, so that a read with 2 s to go
# can still be repeated elsewhere. (Core sends a client's pings at least 1 s apart, whatever keepalive_time
# says.) The price, of 200 connections that do nothing else: 0.95 % of one core for the server, 1.8 % for the
# client. A link on which 4 MiB take longer than ping_timeout needs a longer one. Servers of another make have
# to allow a ping a second: most cut off who sends more than two in five minutes.
# min_reconnect_backoff_ms bounds an attempt to connect, too: frozen processes accept, and then say nothing.
CHANNEL: tuple[Option, ...] = (
    ("grpc.max_receive_message_length", 4 * MIB),
    ("grpc.keepalive_time_ms", 500),
    ("grpc.keepalive_timeout_ms", 700),
    ("grpc.http2.ping_timeout_ms", 700),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)
"""Options of every channel."""


MEASURED = 64 * KIB
"""How much larger than allowed a message may be and still be refused by us, in words a program can read."""


def server_options(
    schedule: Schedule, user: Iterable[Option] = (), *, largest_message: int = 256 * KIB
) -> list[Option]:
    """The options of a server whose certificates live by `schedule`, with `user`'s in place of ours by name.

    `largest_message` is in bytes, of the method that takes the largest ones: what is far over it core refuses
    at its length, before it is held in memory. Nothing but age ends a connection whose certificate has died,
    so no `user` option may take the age away.
    """
    age = (
        ("grpc.max_connection_age_ms", round(schedule.max_connection_age * 1000)),
        ("grpc.max_connection_age_grace_ms", round(schedule.grace * 1000)),
    )
    receive = ("grpc.max_receive_message_length", largest_message + MEASURED)
    chosen = dict(merged((*_SERVER, receive, *age), tuple(user)))
    for name, longest in age:
        chosen[name] = min(int(chosen[name]), longest)
    return list(chosen.items())


def merged(defaults: Iterable[Option], user: Sequence[Option]) -> list[Option]:
    """One option of each name: `user`'s where there is one, and of `user`'s own repetitions the last."""
    return list((dict(defaults) | dict(user)).items())
