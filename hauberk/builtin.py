"""The policies of what every server offers: health and reflection, whose contracts others wrote.

Health is for any workload of the trust domain, reflection for its operators.
"""

from collections.abc import Mapping

from hauberk.interceptors.policy import BUILT_IN, Idempotency, Policy, callers


def _policy(method: str, who: str, *, request_streaming: bool, response_streaming: bool) -> Policy:
    return Policy(
        method=method,
        request_streaming=request_streaming,
        response_streaming=response_streaming,
        callers=callers(who),
        idempotency=Idempotency.NO_SIDE_EFFECTS,
        origin=BUILT_IN,
    )


def _health(service: str) -> Mapping[str, Policy]:
    streams = {"Check": False, "List": False, "Watch": True}
    return {
        name: _policy(f"/{service}/{name}", "*", request_streaming=False, response_streaming=stream)
        for name, stream in streams.items()
    }


def _reflection(service: str) -> Mapping[str, Policy]:
    name = "ServerReflectionInfo"
    who = "operators/*"
    return {name: _policy(f"/{service}/{name}", who, request_streaming=True, response_streaming=True)}


HEALTH = "grpc.health.v1.Health"
REFLECTION = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")

POLICIES: Mapping[str, Mapping[str, Policy]] = {
    HEALTH: _health(HEALTH),
    **{service: _reflection(service) for service in REFLECTION},
}
"""By service, by method."""
