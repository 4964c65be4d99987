"""A STAC API on the loopback: the routes, models and links are stac-fastapi's, the items are in memory.

Real are HTTP, the landing page, paging by token and the STAC API's own request models; the items are written here in
the shape that public APIs give them (Planetary Computer, Earth Search, Copernicus Data Space), which cannot be reached.
"""

import asyncio
import base64
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import attr
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from pydantic import Field
from shapely.geometry import box, shape
from stac_fastapi.api.app import StacApi
from stac_fastapi.types.config import ApiSettings
from stac_fastapi.types.core import BaseCoreClient
from stac_fastapi.types.search import BaseSearchPostRequest
from starlette.responses import JSONResponse

FILTER = "https://api.stacspec.org/v1.0.0-rc.2/item-search#filter"
QUERY = "https://api.stacspec.org/v1.0.0/item-search#query"


class SearchBody(BaseSearchPostRequest):
    """The search body with the extensions that servers add: paging token, query, filter."""

    token: str | None = None
    query: dict[str, dict[str, Any]] | None = None
    filter: dict[str, Any] | None = None
    filter_lang: str | None = Field(None, alias="filter-lang")


@attr.s
class Memory(BaseCoreClient):
    """Answers searches from a list of items."""

    collections: dict[str, list[dict[str, Any]]] = attr.ib(factory=dict)
    bodies: list[dict[str, Any]] = attr.ib(factory=list)
    stuck: bool = attr.ib(default=False)  # every page leads to itself

    def post_search(self, search_request: SearchBody, **kwargs: Any) -> Any:
        self.bodies.append(search_request.model_dump(mode="json", exclude_none=True, by_alias=True))
        found = [i for name, items in self.collections.items() for i in items if self._meets(i, name, search_request)]
        start = int(base64.b64decode(search_request.token)) if search_request.token else 0
        size = search_request.limit or 10
        links = []
        if start + size < len(found) or self.stuck:
            token = base64.b64encode(str(start if self.stuck else start + size).encode()).decode()
            href = f"{kwargs['request'].base_url}search"
            links = [{"rel": "next", "href": href, "method": "POST", "merge": True, "body": {"token": token}}]
        return {
            "type": "FeatureCollection",
            "features": found[start : start + size],
            "links": links,
            "numberMatched": len(found),
        }

    def _meets(self, item: dict[str, Any], name: str, asked: SearchBody) -> bool:
        place = shape(item["geometry"])
        where = box(*asked.bbox) if asked.bbox else None
        where = shape(asked.intersects.model_dump()) if asked.intersects else where
        when = item["properties"]["start_datetime"].replace(" ", "T")[:19]
        start, end = asked.start_date, asked.end_date
        return (
            (not asked.collections or name in asked.collections)
            and (where is None or place.intersects(where))
            and (start is None or when >= start.strftime("%Y-%m-%dT%H:%M:%S"))
            and (end is None or when <= end.strftime("%Y-%m-%dT%H:%M:%S"))
            and all(item["properties"].get(key) == test["eq"] for key, test in (asked.query or {}).items())
            and (asked.filter is None or _cql2(item["properties"], asked.filter))
        )

    def get_search(self, **kwargs: Any) -> Any:
        raise HTTPException(501, "only POST")

    def get_item(self, item_id: str, collection_id: str, **kwargs: Any) -> Any:
        return next(item for item in self.collections[collection_id] if item["id"] == item_id)

    def all_collections(self, **kwargs: Any) -> Any:
        return {"collections": [self.get_collection(name) for name in self.collections], "links": []}

    def get_collection(self, collection_id: str, **kwargs: Any) -> Any:
        extent = {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [[None, None]]}}
        return {
            "type": "Collection",
            "stac_version": "1.0.0",
            "id": collection_id,
            "description": collection_id,
            "license": "other",
            "extent": extent,
            "links": [],
        }

    def item_collection(self, collection_id: str, **kwargs: Any) -> Any:
        return {"type": "FeatureCollection", "features": self.collections[collection_id], "links": []}


def _cql2(properties: dict[str, Any], test: dict[str, Any]) -> bool:
    """The two operators of CQL2 (OGC 21-065r2) that a search uses."""
    if test["op"] == "and":
        return all(_cql2(properties, inner) for inner in test["args"])
    assert test["op"] == "="
    return bool(properties.get(test["args"][0]["property"]) == test["args"][1])


@dataclass
class StacServer:
    url: str
    client: Memory
    faults: list[int] = field(default_factory=list)  # status codes that the next searches end with

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return self.client.bodies


@contextmanager
def stac_server(
    collections: dict[str, list[dict[str, Any]]], conformance: tuple[str, ...] = ()
) -> Iterator[StacServer]:
    client = Memory(collections=collections)
    client.base_conformance_classes = [*client.base_conformance_classes, *conformance]
    api = StacApi(
        settings=ApiSettings(enable_response_models=False),
        client=client,
        search_post_request_model=SearchBody,
        title="test",
        description="test",
    )
    server = StacServer("", client)
    _add_faults(api.app, server)
    with serving(api.app) as port:
        server.url = f"http://127.0.0.1:{port}/"
        yield server


def _add_faults(app: FastAPI, server: StacServer) -> None:
    @app.middleware("http")
    async def fail(request: Request, call_next: Any) -> Any:
        if request.url.path == "/search" and server.faults:
            status = server.faults.pop(0)
            return JSONResponse({"code": "busy", "description": "later"}, status, {"Retry-After": "0"})
        return await call_next(request)


@contextmanager
def serving(app: Any, **tls: Any) -> Iterator[int]:
    """Serve an application from a thread until the block ends; gives the port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="error", lifespan="off", **tls)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(10)
