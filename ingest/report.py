"""The page a build leaves behind: what is in the corpus, how it looks, where it lies, what was set aside."""

from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.report import figure, note, page, png_of, section, table
from infra.store import NotFound, Store
from ingest.summary import BIN_DB, FIRST_DB
from ingest.work import quicklook_key
from shards.manifest import Manifest, Source

MOST_QUICKLOOKS = 24
MOST_ROWS = 500

_COLOURS = MappingProxyType({"sentinel-1": "tab:blue", "alos-2": "tab:orange"})
_KIND = ("sensor", "platform", "mode", "quantity")


def build_report(
    store: Store,
    manifest: Manifest,
    rows: pa.Table,
    records: Sequence[Mapping[str, Any]],
    rejects: Sequence[Mapping[str, str]],
    left_out: Sequence[Mapping[str, str]],
) -> bytes:
    """Make the self-contained HTML report of a corpus from its manifest, its index rows and the units' records."""
    subtitle = f"manifest {manifest.digest[:16]} · {manifest.tiles:,} tiles · {manifest.bytes / 1e6:,.1f} MB"
    return page(
        "SARSense corpus",
        subtitle,
        [
            section("Summary", _summary(manifest, rejects, left_out)),
            section("Sensors", _sensors(rows)),
            section("Tiles", *_tiles(records)),
            section("Where", figure(_coverage(manifest.sources), "Footprints of all placed scenes, degrees, WGS 84.")),
            section("Backscatter", figure(_histograms(records), _HISTOGRAM_CAPTION)),
            section("Incidence", _incidence(rows)),
            section("Quicklooks", *_quicklooks(store, manifest.sources, records)),
            section("Sources", _sources(manifest.sources)),
            section("Left out", _set_aside(left_out)),
            section("Rejects", _set_aside(rejects)),
        ],
    )


_HISTOGRAM_CAPTION = "Share of pixels per half decibel of calibrated backscatter, by sensor and polarisation."


def _summary(manifest: Manifest, rejects: Sequence[Mapping[str, str]], left_out: Sequence[Mapping[str, str]]) -> str:
    by_kind: dict[tuple[str, str, str], list[int]] = {}
    for source in manifest.sources:
        entry = by_kind.setdefault((source.sensor, source.mode, "+".join(source.polarisations)), [0, 0])
        entry[0] += 1
        entry[1] += source.tiles
    rows = [(*kind, scenes, tiles) for kind, (scenes, tiles) in sorted(by_kind.items())]
    counts = table(("sensor", "mode", "polarisations", "scenes", "tiles"), rows)
    names = table(
        ("what", "name"),
        [
            ("manifest", manifest.digest),
            ("recipe", manifest.recipe_digest),
            ("pixels", manifest.pixels_digest),
            ("codec", manifest.codec),
            ("shards", len(manifest.shards)),
            ("rejects", len(rejects)),
            ("copies of other scenes", sum(entry["stage"] == "duplicate" for entry in left_out)),
            ("scenes without a wanted tile", sum(entry["stage"] == "tiles" for entry in left_out)),
        ],
    )
    return counts + names


def _quicklooks(store: Store, sources: Sequence[Source], records: Sequence[Mapping[str, Any]]) -> list[str]:
    record_of = {source["id"]: record["name"] for record in records for source in record["sources"]}
    shown = []
    for source in _of_every_kind(sources)[:MOST_QUICKLOOKS]:
        try:
            png = store.get(quicklook_key(record_of[source.id], source.id))
        except NotFound:
            continue
        shown.append(figure(png, f"{source.id} · {'+'.join(source.polarisations)}"))
    left = len(sources) - len(shown)
    return [*shown, note(f"{left} more scenes are not shown.")] if left else shown


def _of_every_kind(sources: Sequence[Source]) -> list[Source]:
    """Put the first scene of every sensor and polarisation first, then the second of each, and so on."""
    seen: dict[tuple[str, ...], int] = {}
    turns: list[tuple[int, int, Source]] = []
    for source in sources:
        kind = (source.sensor, *source.polarisations)
        seen[kind] = seen.get(kind, -1) + 1
        turns.append((seen[kind], len(turns), source))
    return [source for _, _, source in sorted(turns, key=lambda turn: turn[:2])]


def _sources(sources: Sequence[Source]) -> str:
    rows = [
        (
            s.id,
            s.sensor,
            "+".join(s.polarisations),
            f"{s.shape[0]} x {s.shape[1]}",
            s.time or "",
            s.tiles,
            "; ".join(s.warnings),
        )
        for s in sources[:MOST_ROWS]
    ]
    return table(("scene", "sensor", "polarisations", "pixels", "time", "tiles", "warnings"), rows)


def _set_aside(entries: Sequence[Mapping[str, str]]) -> str:
    if not entries:
        return note("None.")
    rows = [(e["source"], e["stage"], e["kind"], e["reason"]) for e in entries[:MOST_ROWS]]
    more = len(entries) - len(rows)
    return table(("source", "stage", "kind", "reason"), rows) + (note(f"{more} more are not shown.") if more else "")


def _sensors(rows: pa.Table) -> str:
    """Mean figures of the tiles of each kind, band by band."""
    lines = []
    for (sensor, platform, mode, quantity, names), tiles in _by_kind(rows).items():
        angles = tiles["incidence_deg"].drop_null()
        angle = f"{pc.min(angles).as_py():.1f} - {pc.max(angles).as_py():.1f}" if len(angles) else ""
        for band, name in enumerate(names.split("+")):
            levels = [_mean(pc.list_element(tiles[column], band)) for column in ("mean_db", "p02_db", "p98_db")]
            means = [_mean(tiles[column]) for column in ("contrast_db", "land_share", "valid_share")]
            lines.append((sensor, platform, mode, quantity, name, tiles.num_rows, angle, *levels, *means))
    head = ("sensor", "platform", "mode", "quantity", "band", "tiles", "incidence, degrees")
    means_of = ("mean dB", "2 % dB", "98 % dB", "contrast dB", "land", "valid")
    return table((*head, *means_of), lines) + note("Means over tiles.")


def _by_kind(rows: pa.Table) -> dict[tuple[str, ...], pa.Table]:
    names = pc.binary_join(rows["polarisations"].combine_chunks(), "+")
    columns = [*(pc.fill_null(rows[name].cast(pa.string()), "") for name in _KIND), names]
    kinds = pc.binary_join_element_wise(*columns, "\0")
    found = sorted(pc.unique(kinds).to_pylist())
    return {tuple(kind.split("\0")): rows.filter(pc.equal(kinds, kind)) for kind in found}


def _mean(column: pa.ChunkedArray) -> str:
    mean = pc.mean(column).as_py()
    return "" if mean is None else f"{mean:.2f}"


def _tiles(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What became of tiles: by stratum, and left out by reason."""
    sums: dict[str, Counter[str]] = {name: Counter() for name in ("dropped", "had", "kept")}
    for record in records:
        for name, counts in record.get("tally", {}).items():
            sums[name].update(counts)
    strata = [(name, had, sums["kept"][name], f"{sums['kept'][name] / had:.1%}") for name, had in _ordered(sums["had"])]
    reasons = _ordered(sums["dropped"])
    return [
        table(("stratum", "within limits", "kept", "share"), strata),
        table(("left out for", "tiles"), reasons) if reasons else note("No tile was left out."),
    ]


def _ordered(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))


def _incidence(rows: pa.Table) -> str:
    from matplotlib.figure import Figure

    known = rows.filter(pc.is_valid(rows["incidence_deg"]))
    if not known.num_rows:
        return note("No tile knows its angle of incidence.")
    plot = Figure(figsize=(9, 3.2))
    axes = plot.subplots()
    angles = known["incidence_deg"].to_numpy()
    sensors = np.asarray(known["sensor"].to_pylist())
    edges = np.arange(np.floor(angles.min()), np.ceil(angles.max()) + 1.5, 1.0)
    kinds = sorted(set(sensors.tolist()))
    axes.hist(
        [angles[sensors == kind] for kind in kinds], edges.tolist(), stacked=True, label=kinds, color=_colours(kinds)
    )
    axes.set(xlabel="incidence angle on the ellipsoid, degrees", ylabel="tiles")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure(png_of(plot), "Tiles per degree of the angle of incidence at their middle.")


def _colours(sensors: Sequence[str]) -> list[str]:
    return [_COLOURS.get(sensor, "tab:green") for sensor in sensors]


def _coverage(sources: Sequence[Source]) -> bytes:
    from matplotlib.figure import Figure

    plot = Figure(figsize=(9, 4.2))
    axes = plot.subplots()
    seen: set[str] = set()
    for source in sources:
        if source.footprint is None:
            continue
        ring = np.array([*source.footprint, source.footprint[0]])
        label = None if source.sensor in seen else source.sensor
        seen.add(source.sensor)
        colour = _COLOURS.get(source.sensor, "tab:green")
        axes.plot(ring[:, 0], ring[:, 1], color=colour, lw=1.2, label=label)
        axes.plot(*ring.mean(axis=0), ".", color=colour, ms=4)
    axes.set(xlabel="longitude", ylabel="latitude", xlim=(-180, 180), ylim=(-90, 90))
    axes.set_xticks(range(-180, 181, 30))
    axes.set_yticks(range(-90, 91, 30))
    axes.grid(alpha=0.3)
    if seen:
        axes.legend(loc="lower left", fontsize=8)
    return png_of(plot)


def _histograms(records: Sequence[Mapping[str, Any]]) -> bytes:
    from matplotlib.figure import Figure

    sums: dict[tuple[str, str], NDArray[np.int64]] = {}
    for record in records:
        for scene in record.get("histograms", ()):
            for band, counts in scene["bands"].items():
                key = (scene["sensor"], band)
                sums[key] = sums.get(key, 0) + np.asarray(counts, np.int64)
    plot = Figure(figsize=(9, 3.8))
    axes = plot.subplots()
    for (sensor, band), counts in sorted(sums.items()):
        level = FIRST_DB + BIN_DB * (np.arange(counts.size) + 0.5)
        axes.plot(level, counts / max(counts.sum(), 1), label=f"{sensor} {band}", lw=1.4)
    axes.set(xlabel="backscatter, dB", ylabel="share of pixels", xlim=(-45, 15), ylim=(0, None))
    axes.grid(alpha=0.3)
    if sums:
        axes.legend(fontsize=8)
    return png_of(plot)
