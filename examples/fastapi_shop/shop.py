"""A FastAPI application that calls the mesh. Each worker joins as it starts, and leaves as it ends.

uvicorn --workers 2 shop:app
"""

import contextlib
from collections.abc import AsyncIterator

import fastapi
import grpc

import hauberk
import hauberk.asgi
from hauberk.protos.shop.catalog.v1 import catalog_pb2, catalog_pb2_grpc


@contextlib.asynccontextmanager
async def lifespan(app: fastapi.FastAPI) -> AsyncIterator[None]:
    async with hauberk.join() as mesh:
        app.state.catalog = catalog_pb2_grpc.CatalogStub(mesh.channel)
        yield


app = fastapi.FastAPI(lifespan=lifespan)
app.add_middleware(hauberk.asgi.Inherits, deadline_s=10)


@app.get("/products/{sku}")
async def product(sku: str, response: fastapi.Response) -> dict[str, str]:
    try:
        found = await app.state.catalog.GetProduct(catalog_pb2.GetProductRequest(sku=sku))
    except grpc.aio.AioRpcError as error:
        response.status_code = 502
        return {"error": error.code().name}
    return {"sku": found.sku, "name": found.name}
