"""An application that does what it must not: it joins where it is imported, before --preload forks."""

import flask

import hauberk.blocking
from hauberk.protos.shop.catalog.v1 import catalog_pb2, catalog_pb2_grpc

joined = hauberk.blocking.join()
mesh = joined.start()
app = flask.Flask(__name__)


@app.get("/")
def product() -> str:
    return catalog_pb2_grpc.CatalogStub(mesh.channel).GetProduct(catalog_pb2.GetProductRequest(sku="A")).name
