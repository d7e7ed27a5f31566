"""The RouteConfiguration of one caller: a route for each method it may call, and a refusal for all else.

Unknown and hidden look alike: both get the last route, whose fault filter aborts with PERMISSION_DENIED
before a cluster is asked (gRFC A33), and which nobody retries. gRPC demands that a route name a cluster, so
it names one that has no endpoints. First match wins (gRFC A28):

    hauberk-to: NAME and a method of NAME, or its health, or its reflection
    hauberk-to: anything else             refused
    a method that one workload offers
    all else                              refused
"""

from collections.abc import Iterator

from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import UInt32Value

from hauberk.protos.third_party.envoy.config.route.v3 import route_components_pb2 as components
from hauberk.protos.third_party.envoy.config.route.v3.route_pb2 import RouteConfiguration
from hauberk.protos.third_party.envoy.extensions.filters.http.fault.v3.fault_pb2 import FaultAbort, HTTPFault
from hauberk.protos.third_party.envoy.type.matcher.v3.string_pb2 import StringMatcher
from hauberk.protos.third_party.envoy.type.v3.percent_pb2 import FractionalPercent
from hauberk.services.control.snapshot import Visible, VisibleMethod
from hauberk.services.control.xds.listeners import FAULT_FILTER, packed
from hauberk.services.control.xds.resource import NAME

TO_HEADER = "hauberk-to"
NOWHERE = "hauberk:nowhere"
"""The cluster of refusals. No workload can have this name: a SPIFFE ID's path has no colon."""
RETRIES = 2
"""After the first attempt; each may cost a server the whole call once more."""

HEALTH = "/grpc.health.v1.Health/"
REFLECTION = ("/grpc.reflection.v1.ServerReflection/", "/grpc.reflection.v1alpha.ServerReflection/")

_PERMISSION_DENIED = 7  # google.rpc.Code
_RETRY_BASE_MS = 25
_RETRY_MAX_MS = 250


def route_configuration(visible: Visible) -> RouteConfiguration:
    """Every route a caller that sees `visible` gets."""
    host = components.VirtualHost(name=NAME, domains=["*"], routes=_routes(visible))
    return RouteConfiguration(name=NAME, virtual_hosts=[host])


def _routes(visible: Visible) -> Iterator[components.Route]:
    for name in visible.health:
        yield _forward(components.RouteMatch(prefix=HEALTH, headers=[_to(name)]), name, repeatable=True)
    for name in visible.reflection:
        for prefix in REFLECTION:
            yield _forward(components.RouteMatch(prefix=prefix, headers=[_to(name)]), name, repeatable=False)
    for method in visible.methods:
        yield _method(method, headers=[_to(method.workload)])
    yield _refuse(
        components.RouteMatch(
            prefix="", headers=[components.HeaderMatcher(name=TO_HEADER, present_match=True)]
        )
    )
    for method in visible.methods:
        if not method.contested:
            yield _method(method, headers=[])
    yield _refuse(components.RouteMatch(prefix=""))


def _method(method: VisibleMethod, headers: list[components.HeaderMatcher]) -> components.Route:
    match = components.RouteMatch(path=method.path, headers=headers)
    return _forward(match, method.workload, repeatable=method.repeatable)


def _to(name: str) -> components.HeaderMatcher:
    return components.HeaderMatcher(name=TO_HEADER, string_match=StringMatcher(exact=name))


def _forward(match: components.RouteMatch, cluster: str, *, repeatable: bool) -> components.Route:
    action = components.RouteAction(cluster=cluster)
    if repeatable:
        action.retry_policy.CopyFrom(_retry_policy())
    return components.Route(match=match, route=action)


def _retry_policy() -> components.RetryPolicy:
    """In gRPC's own status names: Envoy's (`5xx`, `reset`) would be accepted and mean no retry (gRFC A44).

    Cancelled is what core ends a call with that reaches a server between its stop and the caller's hearing of
    it; a call that its caller cancelled is not retried.
    """
    return components.RetryPolicy(
        retry_on="unavailable,cancelled",
        num_retries=UInt32Value(value=RETRIES),
        retry_back_off=components.RetryPolicy.RetryBackOff(
            base_interval=_milliseconds(_RETRY_BASE_MS), max_interval=_milliseconds(_RETRY_MAX_MS)
        ),
    )


def _refuse(match: components.RouteMatch) -> components.Route:
    always = FractionalPercent(numerator=100, denominator=FractionalPercent.HUNDRED)
    fault = HTTPFault(abort=FaultAbort(grpc_status=_PERMISSION_DENIED, percentage=always))
    return components.Route(
        match=match,
        route=components.RouteAction(cluster=NOWHERE),
        typed_per_filter_config={FAULT_FILTER: packed(fault)},
    )


def _milliseconds(count: int) -> Duration:
    return Duration(nanos=count * 1_000_000)
