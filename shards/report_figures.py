"""The pictures of a corpus: where, when, at which angles, how bright; and what a version was made of."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.report import png_of
from shards.manifest import Manifest

MOST_OUTLINES = 4000
_COLOURS = MappingProxyType({"sentinel-1": "#2f6db3", "alos-2": "#d9822b"})
_OTHERS = ("#3f9b6c", "#8457a8", "#b8485a", "#6b7a8f", "#a08a2c")
_MONTHS = "JFMAMJJASOND"
_Groups = Callable[[pa.Table], list[tuple[str, NDArray[np.float64]]]]


@dataclass(frozen=True, slots=True)
class Shown:
    """One version in a report: its name on the page, manifest and index."""

    name: str
    manifest: Manifest
    table: pa.Table


def coverage(shown: Sequence[Shown]) -> bytes:
    """Draw where the scenes lie, on longitude and latitude; a dot's area grows with the number of tiles."""
    plot, axes = _panels(shown, height=3.9)
    colours = _colours(shown)
    centres = [_centres(one.table) for one in shown]
    limits = _limits([np.array([place for _, place, _ in group]).reshape(-1, 2) for group in centres])
    for ax, one, group in zip(axes, shown, centres, strict=True):
        for sensor, colour in colours.items():
            places = [(*place, count) for of, place, count in group if of == sensor]
            if places:
                lon, lat, count = np.array(places).T
                label = f"{sensor}: {int(count.sum()):,} tiles of {len(places):,} scenes"
                size = 14 + 160 * np.sqrt(count / max(c for _, _, c in group))
                ax.scatter(lon, lat, s=size, color=colour, alpha=0.55, edgecolor="white", lw=0.6, label=label)
        ax.set(xlabel="longitude", ylabel="latitude", **limits)
        ax.grid(alpha=0.3)
        if group:
            _legend(ax)
        unplaced = one.table["footprint"].null_count
        if unplaced:
            text = f"{unplaced:,} tiles do not know their place"
            ax.text(0.99, 0.02, text, transform=ax.transAxes, ha="right", fontsize=7, color="#777")
    return png_of(plot)


def closeups(shown: Sequence[Shown], most: int = 3) -> bytes | None:
    """Draw the ground of the tiles of the places with most of them; None where no tile has a place."""
    from matplotlib.collections import PolyCollection
    from matplotlib.figure import Figure

    tiles = [_corners(one.table) for one in shown]
    places = _clusters(np.concatenate([corners for corners, _ in tiles]), most)
    if not places:
        return None
    plot = Figure(figsize=(9.6, 3.3 * len(shown)), layout="constrained")
    grid = plot.subplots(len(shown), len(places), squeeze=False)
    colours = _colours(shown)
    for row, (corners, of), one in zip(grid, tiles, shown, strict=True):
        scenes, scene_of = _outlines(one.manifest)
        for ax, (low, high) in zip(row, places, strict=True):
            for sensor, colour in colours.items():
                here = _spread(_within(corners[of == sensor], low, high))
                ax.add_collection(PolyCollection(list(here), facecolor=colour, edgecolor=colour, lw=0.5, alpha=0.35))
                rings = _within(scenes[scene_of == sensor], low, high)
                ax.add_collection(PolyCollection(list(rings), facecolor="none", edgecolor=colour, lw=0.9, ls="--"))
            ax.set(**_limits([np.array([low, high])]))
            ax.set_aspect(1 / max(float(np.cos(np.radians((low[1] + high[1]) / 2))), 0.02), adjustable="box")
            ax.tick_params(labelsize=7)
            ax.locator_params(nbins=4)
            ax.grid(alpha=0.3)
        if len(shown) > 1:
            row[0].set_ylabel(one.name, fontsize=8)
    return png_of(plot)


def _centres(table: pa.Table) -> list[tuple[str, NDArray[np.float64], int]]:
    """Give sensor, middle and number of tiles of every scene with a place."""
    placed = table.filter(pc.is_valid(table["footprint"]))
    middles = _corners(table)[0].mean(axis=1)
    scenes = placed["scene"].combine_chunks().cast(pa.string()).dictionary_encode()
    number, sensors = scenes.indices.to_numpy(), _text(placed["sensor"])
    counts = np.bincount(number, minlength=len(scenes.dictionary))
    first = np.unique(number, return_index=True)[1]
    sums = [np.bincount(number, middles[:, axis], minlength=len(counts)) / np.maximum(counts, 1) for axis in (0, 1)]
    return [(str(sensors[first[n]]), np.array([sums[0][n], sums[1][n]]), int(counts[n])) for n in range(len(counts))]


def _clusters(corners: NDArray[np.float64], most: int) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Give the extents, south-west and north-east, of the tiles in the cells of 3 degrees that hold most."""
    if not len(corners):
        return []
    cells, counts = np.unique(np.floor(corners.mean(axis=1) / 3.0), axis=0, return_counts=True)
    result = []
    for cell in cells[np.argsort(-counts, kind="stable")][:most]:
        inside = corners[(np.floor(corners.mean(axis=1) / 3.0) == cell).all(axis=1)].reshape(-1, 2)
        result.append((inside.min(axis=0), inside.max(axis=0)))
    return result


def _within(corners: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the outlines that touch a box."""
    touches = (corners.min(axis=1) <= high).all(axis=1) & (corners.max(axis=1) >= low).all(axis=1)
    return corners[touches] if len(corners) else corners


def _legend(ax: Any) -> None:
    for handle in ax.legend(fontsize=7, loc="best").legend_handles:
        handle.set_sizes([30])


def seasons(shown: Sequence[Shown]) -> bytes:
    """Draw the tiles of each month, stacked by sensor."""
    plot, axes = _panels(shown, height=2.6)
    colours = _colours(shown)
    for ax, one in zip(axes, shown, strict=True):
        times = one.table["time"].cast(pa.string())
        month = pc.fill_null(pc.utf8_slice_codeunits(times, 5, 7), "").to_numpy(zero_copy_only=False)
        sensors = _text(one.table["sensor"])
        base = np.zeros(12)
        for sensor, colour in colours.items():
            counts = np.array([np.count_nonzero((month == f"{m:02d}") & (sensors == sensor)) for m in range(1, 13)])
            ax.bar(range(12), counts, bottom=base, color=colour, label=sensor, width=0.8)
            base += counts
        unknown = np.count_nonzero(month == "")
        ax.set_xticks(range(12), list(_MONTHS))
        ax.set(ylabel="tiles", xlabel="month" + (f" ({unknown:,} tiles without time)" if unknown else ""))
        ax.grid(alpha=0.3, axis="y")
        ax.legend(fontsize=7)
    return png_of(plot)


def incidence(shown: Sequence[Shown]) -> bytes | None:
    """Draw the tiles by angle of incidence, stacked by sensor; None where no tile knows its angle."""
    if all(one.table["incidence_deg"].null_count == len(one.table) for one in shown):
        return None

    def values(table: pa.Table) -> list[tuple[str, NDArray[np.float64]]]:
        known = table.filter(pc.is_valid(table["incidence_deg"]))
        sensors, angles = _text(known["sensor"]), known["incidence_deg"].to_numpy()
        return [(sensor, angles[sensors == sensor]) for sensor in sorted(set(sensors.tolist()))]

    return _histograms(shown, values, "angle of incidence on the ellipsoid, degrees")


def levels(shown: Sequence[Shown]) -> bytes:
    """Draw how many tiles have which mean level, for every sensor and polarisation."""
    plot, axes = _panels(shown, height=2.9)
    bands = sorted({name for one in shown for name, _ in band_levels(one.table, "mean_db")})
    colours = {name: f"C{n % 10}" for n, name in enumerate(bands)}
    every = [means for one in shown for _, means in band_levels(one.table, "mean_db")]
    ends = (min(map(np.min, every)) - 1, max(map(np.max, every)) + 1) if every else None
    for ax, one in zip(axes, shown, strict=True):
        for name, means in band_levels(one.table, "mean_db"):
            edges = np.arange(np.floor(means.min()), np.ceil(means.max()) + 1.0, 0.5)
            counts, _ = np.histogram(means, edges if len(edges) > 2 else 4)
            middle = (edges[:-1] + edges[1:]) / 2 if len(edges) > 2 else np.linspace(means.min(), means.max(), 4)
            ax.step(middle, counts / max(counts.sum(), 1), where="mid", color=colours.get(name), label=name, lw=1.3)
        ax.set(xlabel="mean level of a tile, dB", ylabel="share of tiles", ylim=(0, None), xlim=ends)
        ax.grid(alpha=0.3)
        ax.legend(fontsize=7)
    return png_of(plot)


def lineage(nodes: Mapping[str, tuple[str, Sequence[str]]], current: Sequence[str]) -> bytes:
    """Draw versions (digest -> (text, parents)) from parents on the left to children on the right."""
    from matplotlib.figure import Figure

    depth: dict[str, int] = {}

    def place(name: str) -> int:
        if name not in depth:
            known = [p for p in nodes[name][1] if p in nodes]
            depth[name] = 1 + max(map(place, known), default=-1)
        return depth[name]

    for name in sorted(nodes):
        place(name)
    columns = [[n for n in nodes if depth[n] == d] for d in range(max(depth.values()) + 1)]
    tallest = max(map(len, columns))
    at = {
        name: (3.0 * d, (len(column) - 1) / 2 - i + (tallest - 1) / 2)
        for d, column in enumerate(columns)
        for i, name in enumerate(column)
    }
    plot = Figure(figsize=(max(4.0, 3.1 * len(columns)), max(1.3, 0.95 * tallest)))
    ax = plot.subplots()
    for name, (_, parents) in nodes.items():
        for parent in parents:
            if parent in at:
                (x0, y0), (x1, y1) = at[parent], at[name]
                style = {"arrowstyle": "-|>", "color": "#666", "lw": 1.1, "shrinkA": 0, "shrinkB": 0}
                ax.annotate("", (x1 - 0.85, y1), (x0 + 0.85, y0), arrowprops=style)
    for name, (x, y) in at.items():
        face = "#ffe9c7" if name in current else "#eef2f7"
        box = {"boxstyle": "round,pad=0.4", "facecolor": face, "edgecolor": "#5b6b80", "lw": 1.0}
        ax.text(x, y, nodes[name][0], ha="center", va="center", fontsize=7.5, bbox=box, family="monospace")
    ax.set(xlim=(-1.5, 3.0 * (len(columns) - 1) + 1.5), ylim=(-0.7, tallest - 0.3))
    ax.axis("off")
    return png_of(plot)


def band_levels(table: pa.Table, column: str) -> list[tuple[str, NDArray[np.float64]]]:
    """Give a list column's values for every sensor and polarisation, as ``sentinel-1 VV``."""
    names = pc.binary_join(table["polarisations"].combine_chunks(), "+")
    sensors = _text(table["sensor"])
    found: dict[str, list[NDArray[np.float64]]] = {}
    for bands in pc.unique(names).to_pylist():
        rows = pc.equal(names, bands)
        part, of = table.filter(rows), sensors[rows.to_numpy(zero_copy_only=False)]
        for band, name in enumerate(bands.split("+")):
            values = pc.list_element(part[column], band).to_numpy()
            for sensor in sorted(set(of.tolist())):
                chosen = values[(of == sensor) & np.isfinite(values)]
                if len(chosen):
                    found.setdefault(f"{sensor} {name}", []).append(chosen)
    return [(name, np.concatenate(parts)) for name, parts in sorted(found.items())]


def _histograms(shown: Sequence[Shown], values: _Groups, label: str) -> bytes:
    plot, axes = _panels(shown, height=2.6)
    colours = _colours(shown)
    every = [group for one in shown for _, group in values(one.table)]
    low, high = min(map(np.min, every)), max(map(np.max, every))
    width = 1.0 if high - low > 10 else 0.1
    edges = np.arange(np.floor(low / width), np.ceil(high / width) + 1.5) * width
    for ax, one in zip(axes, shown, strict=True):
        groups = values(one.table)
        if groups:
            names = [name for name, _ in groups]
            ax.hist([v for _, v in groups], edges, stacked=True, label=names, color=[colours[n] for n in names])
            ax.legend(fontsize=7)
        ax.set(xlabel=label, ylabel="tiles")
        ax.grid(alpha=0.3)
    return png_of(plot)


def _panels(shown: Sequence[Shown], height: float) -> tuple[Any, Sequence[Any]]:
    """Give a figure with a panel for each version, with its name over it where there are two."""
    from matplotlib.figure import Figure

    plot = Figure(figsize=(9.6, height), layout="constrained")
    axes = np.atleast_1d(plot.subplots(1, len(shown)))
    if len(shown) > 1:
        for ax, one in zip(axes, shown, strict=True):
            ax.set_title("\n".join(textwrap.wrap(one.name, 60)), fontsize=8)
    return plot, list(axes)


def _colours(shown: Sequence[Shown]) -> dict[str, str]:
    sensors = sorted({source.sensor for one in shown for source in one.manifest.sources})
    others = iter(_OTHERS * len(sensors))
    return {sensor: _COLOURS.get(sensor) or next(others) for sensor in sensors}


def _corners(table: pa.Table) -> tuple[NDArray[np.float64], NDArray[Any]]:
    placed = table.filter(pc.is_valid(table["footprint"]))
    corners = placed["footprint"].combine_chunks().flatten().to_numpy().reshape(-1, 4, 2)
    return _unwrapped(corners), _text(placed["sensor"])


def _outlines(manifest: Manifest) -> tuple[NDArray[np.float64], NDArray[Any]]:
    placed = [s for s in manifest.sources if s.footprint is not None and len(s.footprint) == 4]
    corners = np.array([s.footprint for s in placed], dtype=np.float64).reshape(-1, 4, 2)
    return _unwrapped(corners), np.array([s.sensor for s in placed], dtype=object)


def _unwrapped(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move corners beyond the antimeridian next to the first one."""
    moved = corners.copy()
    moved[..., 0] = np.unwrap(corners[..., 0], period=360.0, axis=1)
    return moved


def _spread(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    return corners[:: max(1, -(-len(corners) // MOST_OUTLINES))]


def _limits(groups: Sequence[NDArray[np.float64]]) -> dict[str, tuple[float, float]]:
    """Give the axes' limits: all that is covered, with a margin; the world where nothing is."""
    points = np.concatenate([group.reshape(-1, 2) for group in groups])
    if not len(points):
        return {"xlim": (-180.0, 180.0), "ylim": (-90.0, 90.0)}
    low, high = points.min(axis=0), points.max(axis=0)
    margin = np.maximum(0.08 * (high - low), 0.02)
    (west, south), (east, north) = low - margin, high + margin
    return {"xlim": (float(west), float(east)), "ylim": (max(float(south), -90.0), min(float(north), 90.0))}


def _text(column: pa.ChunkedArray) -> NDArray[Any]:
    return np.asarray(column.cast(pa.string()).to_numpy(zero_copy_only=False))
