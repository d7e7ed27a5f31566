"""OpenTelemetry's instrumentation of gRPC, switched on for channels that are not the mesh's.

Calls over ours have spans of their own and leave with their trace; those that a program makes with grpc alone
get theirs from opentelemetry-instrumentation-grpc: to whatever tracer the program has set up, and, made in a
method of ours, as children of its call. OTEL_PYTHON_DISABLED_INSTRUMENTATIONS (`grpc_client`,
`grpc_aio_client`) leaves it off. Once on, it stays on for the process, as instrumentation does.
"""

import os
from collections.abc import Mapping

_DISABLED = "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"


def instrument_others(environment: Mapping[str, str] = os.environ) -> None:
    """Switch it on, where it is installed (the extra `telemetry`) and nobody has before."""
    try:
        from opentelemetry.instrumentation.grpc import GrpcAioInstrumentorClient, GrpcInstrumentorClient
    except ImportError:
        return
    off = {name.strip() for name in environment.get(_DISABLED, "").split(",")}
    for name, instrumentor in (
        ("grpc_client", GrpcInstrumentorClient()),  # type: ignore[no-untyped-call]
        ("grpc_aio_client", GrpcAioInstrumentorClient()),  # type: ignore[no-untyped-call]
    ):
        if not ({name, "*"} & off or instrumentor.is_instrumented_by_opentelemetry):
            instrumentor.instrument(skip_dep_check=True)
