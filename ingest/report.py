"""The page a build leaves behind: what is in the corpus, how it looks, where it lies, what was set aside."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.report import figure, note, page, png_of, section, table
from infra.store import NotFound, Store
from ingest.summary import BIN_DB, FIRST_DB
from ingest.work import quicklook_key
from shards.manifest import Manifest, Source

MOST_QUICKLOOKS = 24


def build_report(
    store: Store, manifest: Manifest, records: Sequence[Mapping[str, Any]], rejects: Sequence[Mapping[str, str]]
) -> bytes:
    """Make the self-contained HTML report of a corpus."""
    subtitle = f"manifest {manifest.digest[:16]} · {manifest.tiles:,} tiles · {manifest.bytes / 1e6:,.1f} MB"
    return page(
        "SARSense corpus",
        subtitle,
        [
            section("Summary", _summary(manifest, rejects)),
            section("Where", figure(_coverage(manifest.sources), "Footprints of all placed scenes, degrees, WGS 84.")),
            section("Backscatter", figure(_histograms(records), _HISTOGRAM_CAPTION)),
            section("Quicklooks", *_quicklooks(store, manifest.sources, records)),
            section("Sources", _sources(manifest.sources)),
            section("Rejects", _rejects(rejects)),
        ],
    )


_HISTOGRAM_CAPTION = "Share of pixels per half decibel of calibrated backscatter, by sensor and polarisation."


def _summary(manifest: Manifest, rejects: Sequence[Mapping[str, str]]) -> str:
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
        for s in sources[:500]
    ]
    return table(("scene", "sensor", "polarisations", "pixels", "time", "tiles", "warnings"), rows)


def _rejects(rejects: Sequence[Mapping[str, str]]) -> str:
    if not rejects:
        return note("None.")
    rows = [(r["source"], r["stage"], r["kind"], r["reason"]) for r in rejects]
    return table(("source", "stage", "kind", "reason"), rows)


def _coverage(sources: Sequence[Source]) -> bytes:
    from matplotlib.figure import Figure

    plot = Figure(figsize=(9, 4.2))
    axes = plot.subplots()
    colours = {"sentinel-1": "tab:blue", "alos-2": "tab:orange"}
    seen: set[str] = set()
    for source in sources:
        if source.footprint is None:
            continue
        ring = np.array([*source.footprint, source.footprint[0]])
        label = None if source.sensor in seen else source.sensor
        seen.add(source.sensor)
        colour = colours.get(source.sensor, "tab:green")
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
