"""A Django application that calls the mesh. gunicorn joins it in each worker: see gunicorn.conf.py.

gunicorn -c gunicorn.conf.py shop:application
"""

import os

import django.conf
import grpc
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

import hauberk.blocking
import hauberk.wsgi
from hauberk.protos.shop.catalog.v1 import catalog_pb2, catalog_pb2_grpc

django.conf.settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    SECRET_KEY=os.environ.get("DJANGO_SECRET_KEY", "only for this example, which signs nothing"),
)
joined = hauberk.blocking.join()  # joins nothing yet: a process that has joined must not fork


def product(request: HttpRequest, sku: str) -> JsonResponse:
    catalog = catalog_pb2_grpc.CatalogStub(joined.mesh.channel)
    try:
        found = catalog.GetProduct(catalog_pb2.GetProductRequest(sku=sku))
    except grpc.RpcError as error:
        return JsonResponse({"error": error.code().name}, status=502)
    return JsonResponse({"sku": found.sku, "name": found.name})


urlpatterns = [path("products/<sku>", product)]
application = hauberk.wsgi.Inherits(get_wsgi_application(), deadline_s=10)
