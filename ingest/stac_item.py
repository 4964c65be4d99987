"""A found STAC item: what it says of itself, how a catalog keeps it, and which items are one acquisition."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from ingest.catalog_rows import item_product
from ingest.href import without_secrets

Item = dict[str, Any]

_S1_NAME = re.compile(
    r"(?P<platform>S1[A-D])_(?P<mode>IW|EW|WV|S[1-6])_(?P<product>GRD|SLC|OCN|RAW|ETA)(?P<resolution>[FHM_])_"
    r"(?P<level>\d[A-Z])(?P<pol>SH|SV|DH|DV|HH|HV|VV|VH)_(?P<start>\d{8}T\d{6})_\d{8}T\d{6}_"
    r"(?P<orbit>\d{6})_(?P<take>[0-9A-F]{6})"
)
_NAMED_POLARISATIONS = {"SH": "HH", "SV": "VV", "DH": "HH HV", "DV": "VV VH"}
_SAME_START = timedelta(seconds=3)  # slices of one data take begin 25 s apart
_KEPT_LINKS = ("self", "derived_from", "license")
_KEPT = ("stac_version", "stac_extensions", "id", "geometry", "bbox", "collection")


@dataclass(frozen=True, slots=True)
class Facts:
    """What is asked of an item, from its properties or else from the product's name."""

    platform: str | None
    mode: str | None
    product: str | None
    polarisations: tuple[str, ...]
    orbit: str | None
    start: datetime | None
    processed: str


def facts(item: Mapping[str, Any]) -> Facts:
    """Read what an item says of itself under any of the names in use (STAC sar, sat, product, processing, s1)."""
    properties = item.get("properties") or {}
    match = _S1_NAME.match(str(item.get("id", "")))
    named = match.groupdict() if match else {}

    def first(*keys: str) -> Any:
        return next((properties[key] for key in keys if properties.get(key)), None)

    platform = first("platform") or named.get("platform")
    own = first("sar:polarizations")
    polarisations = own if isinstance(own, list) else _NAMED_POLARISATIONS.get(named.get("pol", ""), "").split()
    orbit = first("sat:orbit_state")
    return Facts(
        platform=platform_name(str(platform)) if platform else None,
        mode=first("sar:instrument_mode") or named.get("mode"),
        product=first("sar:product_type", "product:type") or named.get("product"),
        polarisations=tuple(str(name).upper() for name in polarisations),
        orbit=str(orbit).lower() if orbit else None,
        start=_when(first("start_datetime", "datetime")),
        processed=str(first("processing:datetime", "s1:processing_datetime", "published", "created") or ""),
    )


def platform_name(name: str) -> str:
    """Give a satellite's short name: S1A for sentinel-1a and SENTINEL-1A, ALOS-2 for alos2."""
    plain = name.strip().upper().replace(" ", "-")
    if match := re.fullmatch(r"(?:SENTINEL-?|S)1-?([A-D])", plain):
        return f"S1{match[1]}"
    return "ALOS-2" if re.fullmatch(r"ALOS-?2", plain) else plain


def clean_item(item: Mapping[str, Any]) -> Item:
    """Give an item as the catalog keeps it: without secrets, and without links that lead into the API."""
    kept = {name: item[name] for name in _KEPT if item.get(name) is not None}
    links = [link for link in item.get("links") or () if link.get("rel") in _KEPT_LINKS]
    if not isinstance(item["id"], str):
        raise TypeError(f"its id is {item['id']!r}")
    assets = item.get("assets") or {}
    if not isinstance(assets, dict) or not all(isinstance(asset, dict) for asset in assets.values()):
        raise TypeError(f"its assets are {assets!r:.60}")
    plain = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "geometry": None,
        **kept,
        "properties": dict(item.get("properties") or {}),
        "links": [{name: link[name] for name in ("rel", "href", "type", "title") if name in link} for link in links],
        "assets": assets,
    }
    result: Item = _scrub(plain)
    return result


def mark_superseded(items: Iterable[Item]) -> list[Item]:
    """Order items by time, and mark all but the newest of those that were processed from the same acquisition.

    A marked one has ``deprecated`` (STAC version extension) and ``sarsense:superseded_by`` among its properties.
    """
    groups: dict[tuple[str, ...], list[tuple[datetime, Item]]] = {}
    late = datetime.max.replace(tzinfo=UTC)
    for item in items:
        groups.setdefault(_acquisition(item), []).append((facts(item).start or late, item))
    ordered: list[tuple[datetime, tuple[str, ...], list[Item]]] = []
    for key, group in groups.items():
        for begin, copies in _together(group):
            newest, *older = sorted(copies, key=_age)
            for item in older:
                item["properties"] |= {"deprecated": True, "sarsense:superseded_by": newest["id"]}
            ordered.append((begin, key, [newest, *older]))
    ordered.sort(key=lambda entry: entry[:2])
    return [item for _, _, copies in ordered for item in copies]


def rows_of(items: Iterable[Item]) -> Iterator[dict[str, Any]]:
    """Give the items as rows of a table: where the product is, and what it is."""
    for item in items:
        known = facts(item)
        yield {
            "path": item_product(item) or "",
            "id": item["id"],
            "platform": known.platform,
            "mode": known.mode,
            "product": known.product,
            "polarisations": "+".join(known.polarisations),
            "orbit": known.orbit,
            "start": known.start.strftime("%Y-%m-%dT%H:%M:%SZ") if known.start else None,
            "superseded_by": item["properties"].get("sarsense:superseded_by"),
        }


def _acquisition(item: Item) -> tuple[str, ...]:
    """Name what a product was made from and as: all of a Sentinel-1 name but the exact times and the checksum."""
    if match := _S1_NAME.match(item["id"]):
        return tuple(match[name] for name in ("platform", "mode", "product", "resolution", "level", "pol", "take"))
    return (item["id"],)


def _together(group: list[tuple[datetime, Item]]) -> Iterator[tuple[datetime, list[Item]]]:
    """Split a data take's products where their starts are more than some seconds apart."""
    group.sort(key=lambda entry: (entry[0], entry[1]["id"]))
    begin, copies = group[0][0], [group[0][1]]
    for moment, item in group[1:]:
        if moment - begin > _SAME_START:
            yield begin, copies
            begin, copies = moment, []
        copies.append(item)
    yield begin, copies


def _age(item: Item) -> tuple[float, str]:
    processed = _when(facts(item).processed or None)
    return (-processed.timestamp() if processed else 0.0, item["id"])


def _scrub(value: Any) -> Any:
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, dict):
        return {name: _scrub(inner) for name, inner in value.items()}
    return [_scrub(inner) for inner in value] if isinstance(value, list | tuple) else value


def _when(value: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(value)) if value else None
        return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC) if moment else None
    except (ValueError, OverflowError):  # no time, or none of the years 1 to 9999
        return None
