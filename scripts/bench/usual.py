"""What is usually put around grpc.aio: five packages, an interceptor each, as their documentation shows.

opentelemetry-instrumentation-grpc with the SDK, py-async-grpc-prometheus, PyJWT, limits, python-json-logger.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import jwt
import limits
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.grpc import aio_server_interceptor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from py_async_grpc_prometheus.prometheus_async_server_interceptor import PromAsyncServerInterceptor
from pythonjsonlogger.json import JsonFormatter

from scripts.bench.sink import OVER_HTTP
from scripts.bench.tokens import AUDIENCE, ISSUER, PUBLIC_KEY

EXPORT_MS = 200
"""Between exports of spans: so that what a round has made is exported, and paid, in that round."""
SERVICE = "usual"

Wrapped = Callable[[grpc.aio.ServicerContext[Any, Any], grpc.HandlerCallDetails], Awaitable[None]]


def interceptors(folder: Path) -> tuple[grpc.aio.ServerInterceptor, ...]:
    """All five, the outermost first; spans go to the sink of the run in `folder`."""
    provider = TracerProvider(sampler=ParentBased(ALWAYS_OFF), resource=Resource({"service.name": SERVICE}))
    endpoint = (folder / OVER_HTTP).read_text("ascii")
    exporter = OTLPSpanExporter(endpoint=f"http://{endpoint}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=EXPORT_MS))
    return (
        aio_server_interceptor(tracer_provider=provider),  # type: ignore[no-untyped-call, unused-ignore]
        PromAsyncServerInterceptor(enable_handling_time_histogram=True),
        _Logging(),
        _Tokens((folder / PUBLIC_KEY).read_bytes()),
        _Quota(),
    )


class _Around(grpc.aio.ServerInterceptor):
    """Does something before a method runs, and something after."""

    async def before(self, context: Any, details: grpc.HandlerCallDetails) -> None:
        """Before the method; aborts the call that must not reach it."""

    def after(self, context: Any, details: grpc.HandlerCallDetails, seconds: float) -> None:
        """When it is over."""

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(details)

        async def unary(request: Any, context: Any) -> Any:
            await self.before(context, details)
            began = time.monotonic()
            try:
                return await handler.unary_unary(request, context)
            finally:
                self.after(context, details, time.monotonic() - began)

        async def stream(request: Any, context: Any) -> Any:
            await self.before(context, details)
            began = time.monotonic()
            try:
                async for reply in handler.unary_stream(request, context):
                    yield reply
            finally:
                self.after(context, details, time.monotonic() - began)

        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                stream, handler.request_deserializer, handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(
            unary, handler.request_deserializer, handler.response_serializer
        )


class _Tokens(_Around):
    """Who calls, by the certificate and by a token."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    async def before(self, context: Any, details: grpc.HandlerCallDetails) -> None:
        if not context.auth_context().get("x509_pem_cert"):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no certificate")
        token = dict(context.invocation_metadata()).get("authorization", "").removeprefix("Bearer ")
        try:
            jwt.decode(token, self._key, algorithms=["ES256"], audience=AUDIENCE, issuer=ISSUER)
        except jwt.InvalidTokenError:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "bad token")


class _Quota(_Around):
    """So many calls a second of one peer."""

    def __init__(self) -> None:
        self._limiter = limits.strategies.FixedWindowRateLimiter(limits.storage.MemoryStorage())
        self._most = limits.RateLimitItemPerSecond(1_000_000)

    async def before(self, context: Any, details: grpc.HandlerCallDetails) -> None:
        if not self._limiter.hit(self._most, details.method, context.peer()):
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many")


class _Logging(_Around):
    """One line for each call."""

    def __init__(self) -> None:
        written = logging.StreamHandler()
        written.setFormatter(JsonFormatter("%(asctime)s %(levelname)s %(message)s"))
        self._log = logging.getLogger("access")
        self._log.setLevel(logging.INFO)
        self._log.propagate = False
        self._log.addHandler(written)

    def after(self, context: Any, details: grpc.HandlerCallDetails, seconds: float) -> None:
        code = context.code() or grpc.StatusCode.OK
        facts = {"method": details.method, "peer": context.peer(), "code": str(code), "seconds": seconds}
        self._log.info("call", extra=facts)
