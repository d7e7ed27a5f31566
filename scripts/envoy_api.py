"""Writes the Envoy API files hauberk uses, with all they import, as a FileDescriptorSet.

Runs in a throw-away environment that holds xds-protos: that package overwrites files of opentelemetry-proto
and googleapis-common-protos, so it may never be installed beside hauberk. Called by
scripts/protos.sh --envoy.
"""

import importlib
import sys
from pathlib import Path

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor

ROOTS = (
    "envoy.service.discovery.v3.ads_pb2",
    "envoy.config.listener.v3.listener_pb2",
    "envoy.config.route.v3.route_pb2",
    "envoy.config.cluster.v3.cluster_pb2",
    "envoy.config.endpoint.v3.endpoint_pb2",
    "envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2",
    "envoy.extensions.filters.http.router.v3.router_pb2",
    "envoy.extensions.filters.http.fault.v3.fault_pb2",
    "envoy.extensions.transport_sockets.tls.v3.tls_pb2",
)


def closure(roots: tuple[str, ...]) -> dict[str, FileDescriptor]:
    """File name to descriptor, each after all it imports."""
    found: dict[str, FileDescriptor] = {}

    def visit(file: FileDescriptor) -> None:
        if file.name in found:
            return
        for dependency in file.dependencies:
            visit(dependency)
        found[file.name] = file

    for root in roots:
        visit(importlib.import_module(root).DESCRIPTOR)
    return found


def main() -> None:
    files = descriptor_pb2.FileDescriptorSet()
    for file in closure(ROOTS).values():
        file.CopyToProto(files.file.add())
    Path(sys.argv[1]).write_bytes(files.SerializeToString(deterministic=True))
    # google.* and grpc.* come with packages that hauberk depends on; the rest is generated.
    print("\n".join(f.name for f in files.file if not f.name.startswith("google/")))


if __name__ == "__main__":
    main()
