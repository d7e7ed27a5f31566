"""A Flask application that calls the mesh. gunicorn joins it in each worker: see gunicorn.conf.py.

gunicorn -c gunicorn.conf.py shop:app
"""

import flask
import grpc

import hauberk.blocking
import hauberk.wsgi
from hauberk.protos.shop.catalog.v1 import catalog_pb2, catalog_pb2_grpc

joined = hauberk.blocking.join()  # joins nothing yet: a process that has joined must not fork

app = flask.Flask(__name__)
app.wsgi_app = hauberk.wsgi.Inherits(app.wsgi_app, deadline_s=10)  # type: ignore[method-assign]


@app.get("/products/<sku>")
def product(sku: str) -> flask.typing.ResponseReturnValue:
    catalog = catalog_pb2_grpc.CatalogStub(joined.mesh.channel)
    try:
        found = catalog.GetProduct(catalog_pb2.GetProductRequest(sku=sku))
    except grpc.RpcError as error:
        return {"error": error.code().name}, 502
    return {"sku": found.sku, "name": found.name}
