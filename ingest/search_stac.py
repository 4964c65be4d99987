"""Searching any STAC API (STAC API 1.0, Item Search) with pystac-client."""

import difflib
import warnings
from collections.abc import Iterator
from typing import Any

import pystac
import requests
from pystac_client import Client
from pystac_client.exceptions import APIError
from pystac_client.item_search import ItemSearch
from pystac_client.stac_api_io import StacApiIO
from shapely.geometry import mapping
from urllib3 import Retry

from infra.errors import ResourceError, UsageError
from ingest.href import without_secrets
from ingest.search import Found, Progress, gather
from ingest.search_query import Query
from ingest.stac_item import Item

PAGE = 250
_BUSY = (429, 500, 502, 503, 504)
_FAILURES = (requests.RequestException, pystac.STACError, APIError, OSError, LookupError, ValueError, TypeError)


def search_stac(
    url: str,
    collections: tuple[str, ...],
    query: Query,
    progress: Progress | None = None,
    *,
    timeout_s: float = 60.0,
    retries: int = 5,
) -> Found:
    """Search the collections of a STAC API.

    Place and time, and mode and orbit where the server can filter, are left to the server; everything else is looked
    at here, because servers name products, platforms and polarisations differently. A busy server is asked again, as
    long after as it wishes. Raises UsageError for unknown collections, ResourceError where the server fails.
    """
    found = Found()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on what the server does not claim to be able to do
            client = _open(url, timeout_s, retries)
            _check_collections(client, collections, url)
            return gather(_items(client, collections, query, found), query, progress, found)
    except _FAILURES as error:
        said = " ".join(without_secrets(str(error)).split())[:300]
        raise ResourceError(f"the STAC API {without_secrets(url)} failed: {said or type(error).__name__}") from None


def _open(url: str, timeout_s: float, retries: int) -> Client:
    retry = Retry(
        total=retries,
        connect=2,  # who cannot be reached at all is not busy
        other=1,
        backoff_factor=0.5,
        backoff_jitter=0.5,
        status_forcelist=_BUSY,
        allowed_methods=None,  # a search is a POST that changes nothing
        raise_on_status=False,
    )
    return Client.open(url, stac_io=StacApiIO(timeout=timeout_s, max_retries=retry))


def _check_collections(client: Client, wanted: tuple[str, ...], url: str) -> None:
    """Refuse collections that the server does not have: a search in them finds nothing and says nothing."""
    try:
        known = [collection.id for collection in client.get_collections()]
    except (APIError, NotImplementedError):
        known = []  # a server that lists none may still search
    if not known and wanted:
        return
    missing = [name for name in wanted if name not in known]
    if wanted and not missing:
        return
    near = difflib.get_close_matches(missing[0], known, 5, 0.4) if missing else _radar(known)
    offered = ", ".join(near or sorted(known)[:20]) or "it lists none"
    said = f"it has no collection {missing[0]!r}" if missing else "--collection says what to search"
    raise UsageError(f"the STAC API {without_secrets(url)}: {said}; of its {len(known)} collections: {offered}")


def _radar(names: list[str]) -> list[str]:
    return sorted(name for name in names if any(word in name.lower() for word in ("sentinel-1", "sar", "alos")))


def _items(client: Client, collections: tuple[str, ...], query: Query, found: Found) -> Iterator[Item]:
    places: list[dict[str, Any]] = [{"bbox": box} for box in query.boxes]
    places = places or [{"intersects": mapping(query.area)} if query.area is not None else {}]
    for place in places:
        search = client.search(
            **place,
            **_server_filter(client, query),
            collections=list(collections),
            datetime=_interval(query),
            limit=PAGE,
        )
        yield from _pages(search, found)


def _pages(search: ItemSearch, found: Found) -> Iterator[Item]:
    """Follow the pages of one search. A server whose pages bring nothing new any more would be asked for ever."""
    seen: set[str] = set()
    for number, page in enumerate(search.pages_as_dicts()):
        if number == 0:
            matched = page.get("numberMatched", (page.get("context") or {}).get("matched"))
            found.matched = (found.matched or 0) + matched if isinstance(matched, int) else None
        names = {f"{item.get('collection')}/{item.get('id')}" for item in page["features"]}
        if number > 0 and names <= seen:
            raise ValueError(f"page {number + 1} of the answer holds nothing that earlier pages did not hold")
        seen |= names
        yield from page["features"]


def _server_filter(client: Client, query: Query) -> dict[str, Any]:
    """Give what the server is told to filter: only properties whose name and values are the same everywhere."""
    modes = [mode for mode in query.modes if mode != "SM"]  # stripmap is S1 to S6 on some servers
    equal: dict[str, str] = {"sat:orbit_state": query.orbit} if query.orbit else {}
    if len(modes) == len(query.modes) == 1:
        equal["sar:instrument_mode"] = modes[0]
    if not equal:
        return {}
    if client.conforms_to("FILTER"):
        tests = [{"op": "=", "args": [{"property": name}, value]} for name, value in equal.items()]
        return {"filter": {"op": "and", "args": tests} if len(tests) > 1 else tests[0], "filter_lang": "cql2-json"}
    if client.conforms_to("QUERY"):
        return {"query": {name: {"eq": value} for name, value in equal.items()}}
    return {}


def _interval(query: Query) -> str | None:
    if query.start is None and query.end is None:
        return None
    ends = [moment.strftime("%Y-%m-%dT%H:%M:%SZ") if moment else ".." for moment in (query.start, query.end)]
    return "/".join(ends)
