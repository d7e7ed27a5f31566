"""How refusals are told, and how they are read."""

from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError

from hauberk.services.refusal import DETAILS_KEY, answering, reason_of
from tests.shop.stage import OpenEngine


class Aborted(Exception):
    pass


@dataclass
class Context:
    """Takes what a method ends its call with."""

    ended: tuple[grpc.StatusCode, str] | None = None

    async def abort(self, code: grpc.StatusCode, details: str, trailing_metadata: Any = ()) -> None:
        self.ended = (code, details)
        raise Aborted


def failed(*metadata: tuple[str, str | bytes]) -> grpc.aio.AioRpcError:
    trailing = grpc.aio.Metadata(*metadata)
    return grpc.aio.AioRpcError(grpc.StatusCode.FAILED_PRECONDITION, grpc.aio.Metadata(), trailing)


def packed(reason: str, domain: str) -> bytes:
    status = status_pb2.Status(code=9)
    status.details.add().Pack(error_details_pb2.BadRequest())
    status.details.add().Pack(
        error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata={"sku": "T-HELM"})
    )
    return bytes(status.SerializeToString())


def test_a_reason_of_the_shop_is_read_with_its_facts() -> None:
    error = failed(("other", "x"), (DETAILS_KEY, packed("OUT_OF_STOCK", "shop")))
    assert reason_of(error) == ("OUT_OF_STOCK", {"sku": "T-HELM"})


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        [(DETAILS_KEY, b"\xff\xff\xff")],
        [(DETAILS_KEY, packed("OUT_OF_STOCK", "hauberk"))],
        [(DETAILS_KEY, packed("OUT_OF_STOCK", "elsewhere.example"))],
    ],
)
def test_what_is_no_reason_of_the_shop_is_none(metadata: list[tuple[str, str | bytes]]) -> None:
    assert reason_of(failed(*metadata)) == ("", {})


@pytest.mark.parametrize("statement", ["SELECT no_such_column", "SELEKT 1", "SELECT * FROM no_such_table"])
async def test_a_statement_of_ours_that_is_wrong_is_no_outage(engine_of: OpenEngine, statement: str) -> None:
    """It is a bug: the guard makes it INTERNAL, and nobody repeats the call."""
    engine = engine_of("catalog")
    context: Any = Context()
    with pytest.raises(DBAPIError):
        async with answering(context):
            run(engine, statement)
    assert context.ended is None


async def test_a_database_that_is_locked_is_an_outage(engine_of: OpenEngine) -> None:
    engine = engine_of("catalog")
    context: Any = Context()
    if engine.dialect.name == "sqlite":
        impatient = create_engine(engine.url, connect_args={"timeout": 0})
        lock = "BEGIN IMMEDIATE"
    else:
        impatient = create_engine(engine.url, connect_args={"options": "-c lock_timeout=10"})
        lock = "LOCK TABLE products"

    async def wait_for_it() -> None:
        async with answering(context):
            run(impatient, lock)

    with impatient.connect() as holder:
        holder.exec_driver_sql(lock)
        with pytest.raises(Aborted):
            await wait_for_it()
    impatient.dispose()
    assert context.ended == (grpc.StatusCode.UNAVAILABLE, "the database does not answer; try again")


def run(engine: Engine, statement: str) -> None:
    with engine.connect() as connection:
        connection.execute(text(statement))
