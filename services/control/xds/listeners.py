"""The Listener of a gRPC client: one name, routes over the same stream, two filters (gRFC A27, A33).

The fault filter stands here without a fault. It is what lets a route refuse: see routes.py.
"""

from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

from hauberk.protos.third_party.envoy.config.core.v3.config_source_pb2 import (
    AggregatedConfigSource,
    ApiVersion,
    ConfigSource,
)
from hauberk.protos.third_party.envoy.config.listener.v3.api_listener_pb2 import ApiListener
from hauberk.protos.third_party.envoy.config.listener.v3.listener_pb2 import Listener
from hauberk.protos.third_party.envoy.extensions.filters.http.fault.v3.fault_pb2 import HTTPFault
from hauberk.protos.third_party.envoy.extensions.filters.http.router.v3.router_pb2 import Router
from hauberk.protos.third_party.envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm,
)
from hauberk.services.control.xds.resource import NAME

FAULT_FILTER = "envoy.filters.http.fault"
OVER_ADS = ConfigSource(ads=AggregatedConfigSource(), resource_api_version=ApiVersion.V3)


def listener() -> Listener:
    """The same for every caller."""
    manager = hcm.HttpConnectionManager(
        rds=hcm.Rds(config_source=OVER_ADS, route_config_name=NAME),
        http_filters=[
            hcm.HttpFilter(name=FAULT_FILTER, typed_config=packed(HTTPFault())),
            hcm.HttpFilter(name="envoy.filters.http.router", typed_config=packed(Router())),
        ],
    )
    return Listener(name=NAME, api_listener=ApiListener(api_listener=packed(manager)))


def packed(message: Message) -> Any:
    """`message` as an Any, the same bytes for the same content."""
    wrapped = Any()
    wrapped.Pack(message, deterministic=True)
    return wrapped
