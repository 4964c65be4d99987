"""Searching the archive of the Alaska Satellite Facility with asf_search, which asks NASA's CMR (UMM-G granules)."""

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import asf_search
import requests
from requests.adapters import HTTPAdapter
from shapely.geometry import box, shape
from urllib3 import Retry

from infra.errors import ResourceError
from ingest.href import without_secrets
from ingest.search import Found, Progress, gather
from ingest.search_query import Query
from ingest.stac_item import Item, platform_name

HOST = "cmr.earthdata.nasa.gov"
_COLLECTIONS = {
    "GRD": [f"{pol}_GRD_{resolution}" for pol in ("DP", "SP") for resolution in ("FULL", "HIGH", "MEDIUM")],
    "SLC": ["SLC"],
}
_POLARISATIONS = ("VV", "HH", "VV+VH", "HH+HV", "HH+VV", "HH+HV+VH+VV")
_SENTINEL_1 = ("S1A", "S1B", "S1C", "S1D")
_BUSY = (429, 500, 502, 503, 504)


class _Patient(HTTPAdapter):
    """Asks a busy server again and never waits for ever; asf_search has one timeout and no way to set it."""

    def __init__(self, timeout_s: float, retries: int) -> None:
        self._timeout_s = timeout_s
        retry = Retry(
            total=retries,
            connect=2,  # who cannot be reached at all is not busy
            other=1,
            backoff_factor=0.5,
            status_forcelist=_BUSY,
            allowed_methods=None,  # a search is a POST that changes nothing
            raise_on_status=False,
        )
        super().__init__(max_retries=retry)

    def __getstate__(self) -> dict[str, Any]:  # requests copies sessions with their adapters
        return {**super().__getstate__(), "_timeout_s": self._timeout_s}

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Send a request with this adapter's timeout."""
        return super().send(request, *args, **{**kwargs, "timeout": self._timeout_s})


def search_asf(
    query: Query,
    progress: Progress | None = None,
    *,
    host: str = HOST,
    timeout_s: float = 60.0,
    retries: int = 5,
) -> Found:
    """Search Sentinel-1 GRD and SLC products, or what ``--platform`` names; no account is needed to search.

    Items are made of CMR's granules: the product's zip is the asset ``product``. Errors are not reported to ASF.
    Raises ResourceError where the server fails.
    """
    asf_search.REPORT_ERRORS = False  # it would post the query to ASF
    session = asf_search.ASFSession()
    session.mount("https://", _Patient(timeout_s, retries))
    found = Found()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # asf_search calls what its own dependencies have deprecated
            found.matched = sum(asf_search.search_count(opts=opts) for opts in _options(query, session, host))
            return gather(_items(_options(query, session, host)), query, progress, found)
    except (asf_search.ASFError, requests.RequestException, OSError, ValueError, KeyError, TypeError) as error:
        said = " ".join(without_secrets(str(error)).split())[:300]
        raise ResourceError(f"the search at {host} failed: {said or type(error).__name__}") from None


def _items(searches: Iterable[Any]) -> Iterator[Item]:
    for opts in searches:
        for page in asf_search.search_generator(opts=opts):
            yield from (_item(product) for product in page)


def _options(query: Query, session: Any, host: str) -> list[Any]:
    """Give what to ask for each place."""
    shapes = [box(*one) for one in query.boxes] or ([query.area] if query.area is not None else [])
    places = [{"intersectsWith": one.wkt} for one in shapes] or [{}]
    return [
        asf_search.ASFSearchOptions(**kind, **place, **_filters(query), session=session, host=host)
        for place in places
        for kind in _kinds(query)
    ]


def _kinds(query: Query) -> list[dict[str, list[str]]]:
    """Name Sentinel-1's collections one by one.

    asf_search's own table of them by platform (14.1) lacks some, such as those of single polarisation of Sentinel-1B,
    and a search by platform and level then silently finds nothing there.
    """
    others = [name for name in query.platforms if name not in _SENTINEL_1]
    ours = [name for name in _SENTINEL_1 if name in query.platforms or not query.platforms]
    levels = _COLLECTIONS[query.product] if query.product else [*_COLLECTIONS["GRD"], *_COLLECTIONS["SLC"]]
    names = [f"SENTINEL-1{name[-1]}_{level}" for name in ours for level in levels]
    return [kind for kind in ({"shortName": names}, {"platform": others}) if all(kind.values())]


def _filters(query: Query) -> dict[str, Any]:
    polarisations = [p for p in _POLARISATIONS if {*query.polarisations} <= {*p.split("+")}]
    options = {
        "start": query.start,
        "end": query.end,
        "beamMode": [*query.modes] if "SM" not in query.modes else None,
        "flightDirection": query.orbit.upper() if query.orbit else None,
        "polarization": polarisations if query.polarisations else None,
    }
    return {name: value for name, value in options.items() if value}


def _item(product: Any) -> Item:
    """Make a STAC item of a granule."""
    known = product.properties
    name = str(known.get("sceneName") or known["fileID"])
    orbit = str(known.get("flightDirection") or "").lower()
    polarisation = known.get("polarization") or ()
    properties = {
        "datetime": known.get("startTime"),
        "start_datetime": known.get("startTime"),
        "end_datetime": known.get("stopTime"),
        "platform": platform_name(str(known["platform"])) if known.get("platform") else None,
        "sar:instrument_mode": known.get("beamModeType"),
        "sar:polarizations": polarisation.split("+") if isinstance(polarisation, str) else [*polarisation],
        "product:type": known.get("processingLevel"),
        "sat:orbit_state": orbit or None,
        "sat:absolute_orbit": known.get("orbit"),
        "sat:relative_orbit": known.get("pathNumber"),
        "processing:datetime": known.get("processingDate"),
    }
    geometry = product.geometry if (product.geometry or {}).get("coordinates") else None
    size = {"file:size": known["bytes"]} if isinstance(known.get("bytes"), int) else {}
    return {
        "id": name,
        "collection": known.get("collectionName") or "asf",
        "geometry": geometry,
        "bbox": [*shape(geometry).bounds] if geometry else None,
        "properties": {key: value for key, value in properties.items() if value is not None},
        "assets": {"product": {"href": known["url"], "type": "application/zip", "roles": ["data"], **size}},
    }
