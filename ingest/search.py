"""From what servers send to what was asked for: every item is looked at again, ordered, and kept without secrets."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from shapely.errors import ShapelyError
from shapely.geometry import shape

from infra.errors import ResourceError
from ingest.search_query import Query
from ingest.stac_item import Item, clean_item, facts, mark_superseded

Progress = Callable[[int, int | None], None]


@dataclass(slots=True)
class Found:
    """The taken items in order, how many the server has at that place and time, and why others were left out."""

    items: list[Item] = field(default_factory=list)
    matched: int | None = None
    left_out: Counter[str] = field(default_factory=Counter)
    cut: bool = False

    @property
    def superseded(self) -> int:
        """How many of the items were processed again since."""
        return sum("sarsense:superseded_by" in item["properties"] for item in self.items)


def gather(pages: Iterable[Item], query: Query, progress: Progress | None = None, found: Found | None = None) -> Found:
    """Take the items that the query asks for, in the order of their time and the newest processing first.

    Servers differ in what they can filter, so every item is looked at again. Secrets are taken out of hrefs.
    """
    found = found or Found()
    taken: dict[str, Item] = {}
    for item in pages:
        name = f"{item.get('collection')}/{item.get('id')}"
        try:
            if name in taken:
                continue
            if reason := refusal(item, query):
                found.left_out[reason] += 1
                continue
            if len(taken) == query.limit:
                found.cut = True
                break
            taken[name] = clean_item(item)
        except (KeyError, TypeError, ValueError, AttributeError, ShapelyError) as error:
            raise ResourceError(f"the server sent something that is not a STAC item, {name}: {error!r}") from error
        if progress:
            progress(len(taken), found.matched)
    found.items = mark_superseded(taken.values())
    return found


def refusal(item: Mapping[str, Any], query: Query) -> str | None:
    """Name the option that an item does not meet, or give None."""
    known = facts(item)
    if query.modes and not _mode_meets(known.mode, query.modes):
        return "--mode"
    if query.polarisations and not set(query.polarisations) <= {*known.polarisations}:
        return "--polarisation"
    if query.product and query.product not in (known.product or "").upper():
        return "--product"
    if query.platforms and known.platform not in query.platforms:
        return "--platform"
    if query.orbit and known.orbit != query.orbit:
        return "--orbit"
    if query.area is not None and not _touches(item.get("geometry"), query.area):
        return "--intersects"
    return None


def _mode_meets(mode: str | None, wanted: tuple[str, ...]) -> bool:
    """Tell whether a mode is asked for; SM stands for all stripmap beams S1 to S6."""
    return mode in wanted or ("SM" in wanted and re.fullmatch(r"S[1-6]", mode or "") is not None)


def _touches(geometry: Mapping[str, Any] | None, area: Any) -> bool:
    """Tell whether a footprint meets an area. One that may cross the antimeridian is left to the server's answer."""
    if not geometry:
        return True
    footprint = shape(geometry)
    west, _, east, _ = footprint.bounds
    return bool(east - west > 180 or east > 180 or footprint.intersects(area))
