"""What a corpus holds, on one page; or two versions side by side with what changed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.errors import SarsenseError
from infra.report import figure, note, page, section, table
from infra.store import NotFound, Store
from shards.diff import SHOWN, Difference, diff
from shards.export import png
from shards.heads import tags
from shards.manifest import Manifest, parse, version_key
from shards.reader import Corpus
from shards.report_figures import Shown, band_levels, closeups, coverage, incidence, levels, lineage, seasons
from shards.tile import NO_DATA

MOST_ROWS = 200
MOST_VERSIONS = 60
SIDE = 224
"""Most pixels on a side of a tile's picture."""

_CLASS_COLOURS = ((70, 130, 180), (214, 120, 40), (60, 160, 90), (190, 60, 70), (140, 100, 180), (120, 110, 90))


def report(corpora: Sequence[Corpus], names: Sequence[str], *, seed: int = 0, tiles: int = 18) -> bytes:
    """Make the self-contained HTML page of one version, or of two beside each other; ``names`` head their columns.

    ``seed`` decides which ``tiles`` tiles are shown, the same ones for the same version.
    """
    shown = [Shown(name, c.manifest, c.table) for name, c in zip(names, corpora, strict=True)]
    angles = incidence(shown)
    parts = [
        section("Summary", _summary(shown)),
        *([section("What changed", _changes(diff(corpora[0], corpora[1])))] if len(corpora) == 2 else []),
        section("Where", *_maps(shown)),
        section("What", _counts(shown)),
        section("When", figure(seasons(shown), "Tiles by month of acquisition.")),
        section(
            "Angle of incidence",
            figure(angles, "Tiles by the angle at their middle.") if angles else note("No tile knows its angle."),
        ),
        section("Backscatter", figure(levels(shown), "Mean level of the valid pixels of a tile."), _levels(shown)),
        section(f"Tiles drawn with seed {seed}", _galleries(corpora, names, seed, tiles)),
        section("Lineage", *_lineage(corpora)),
    ]
    title = " and ".join(names) if len(names) > 1 else names[0]
    first = shown[0].manifest
    subtitle = f"{first.tiles:,} tiles · {first.bytes / 1e6:,.1f} MB · version {first.digest[:16]}"
    return page(title, subtitle if len(names) == 1 else "two versions side by side", parts)


def _maps(shown: Sequence[Shown]) -> list[str]:
    near = closeups(shown)
    world = figure(coverage(shown), "Dots: scenes, as large as they have tiles. Degrees, WGS 84.")
    return [world, *([figure(near, "The places with most tiles. Filled: tiles; dashed: scenes.")] if near else [])]


def _summary(shown: Sequence[Shown]) -> str:
    facts = [_facts(one) for one in shown]
    rows = [(name, *(str(fact[name]) for fact in facts)) for name in facts[0]]
    return table(("", *(one.name for one in shown)), rows)


def _facts(one: Shown) -> dict[str, Any]:
    manifest, rows = one.manifest, one.table
    scale, days = manifest.scale, sorted(s.time[:10] for s in manifest.sources if s.time)
    labelled = int((rows["label_offset"].to_numpy() >= 0).sum())
    made = manifest.lineage.made_by if manifest.lineage else "build"
    return {
        "version": manifest.digest,
        "made by": made,
        "tiles": f"{manifest.tiles:,}, {labelled:,} with label",
        "scenes": f"{len(manifest.sources):,}",
        "shards": f"{len(manifest.shards):,}, {manifest.bytes / 1e6:,.1f} MB, {manifest.codec}",
        "time": f"{days[0]} to {days[-1]}" if days else "not known",
        "pixels": f"uint16 decibels from {scale.floor_db:g} by {scale.step_db:g}; {manifest.pixels_digest[:16]}",
        "recipe": manifest.recipe_digest,
    }


def _counts(shown: Sequence[Shown]) -> str:
    """Tiles by sensor, platform, mode, polarisations, orbit and size."""
    counts = [_kinds(one.table) for one in shown]
    kinds = sorted({kind for count in counts for kind in count})
    head = ("sensor", "platform", "mode", "quantity", "orbit", "polarisations", "rows x cols")
    columns = [f"tiles: {one.name}" for one in shown] if len(shown) > 1 else ["tiles"]
    rows = [(*kind, *(count.get(kind, 0) for count in counts)) for kind in kinds[:MOST_ROWS]]
    return table((*head, *columns), rows)


def _kinds(rows: pa.Table) -> dict[tuple[str, ...], int]:
    text = [pc.fill_null(rows[n].cast(pa.string()), "-") for n in ("sensor", "platform", "mode", "quantity", "orbit")]
    bands = pc.binary_join(rows["polarisations"].combine_chunks(), "+")
    size = pc.binary_join_element_wise(rows["rows"].cast(pa.string()), rows["cols"].cast(pa.string()), " x ")
    counted = pc.value_counts(pc.binary_join_element_wise(*text, bands, size, "\0")).to_pylist()
    return {tuple(entry["values"].split("\0")): entry["counts"] for entry in counted}


def _levels(shown: Sequence[Shown]) -> str:
    rows = []
    for one in shown:
        columns = {name: dict(band_levels(one.table, name)) for name in ("mean_db", "p02_db", "p98_db", "std_db")}
        for band, means in columns["mean_db"].items():
            spread = [float(np.quantile(means, q)) for q in (0.05, 0.5, 0.95)]
            others = [_mean(columns[name].get(band)) for name in ("p02_db", "p98_db", "std_db")]
            rows.append((*([one.name] if len(shown) > 1 else []), band, len(means), *spread, *others))
    first = ("version",) if len(shown) > 1 else ()
    head = ("band", "tiles", "mean: 5 %", "median", "95 %", "2 % of pixels", "98 % of pixels", "spread")
    return table((*first, *head), rows) + note("Decibels. The last three are means over tiles.")


def _mean(values: NDArray[np.float64] | None) -> float | str:
    return "-" if values is None else float(values.mean())


def _changes(found: Difference) -> str:
    if found.nothing:
        return note("Nothing: both are one version.")
    counts = [
        (what, *(len(getattr(found, f"{what}_{how}")) for how in ("removed", "added", "changed")))
        for what in ("scenes", "tiles")
    ]
    parts = [table(("", "removed", "added", "changed"), counts), note(f"{found.tiles_same:,} tiles are the same.")]
    dials = [(name, _short(old), _short(new)) for name, (old, new) in found.dials.items()]
    names = [
        (f"{what} {how}", _listed(named))
        for what in ("scenes", "tiles")
        for how in ("removed", "added", "changed")
        if (named := getattr(found, f"{what}_{how}"))
    ]
    if dials:
        parts.append(table(("dial", "before", "after"), dials[:MOST_ROWS]))
    return "".join(parts) + (table(("", "names"), names) if names else "")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _galleries(corpora: Sequence[Corpus], names: Sequence[str], seed: int, count: int) -> str:
    parts = []
    for corpus, name in zip(corpora, names, strict=True):
        title = [note(name)] if len(corpora) > 1 else []
        parts += [*title, *(_picture(corpus, int(i)) for i in drawn(len(corpus), seed, count))]
    return "".join(parts)


def drawn(total: int, seed: int, count: int) -> NDArray[np.int64]:
    """Give the sorted numbers of the tiles that a seed shows."""
    return np.sort(np.random.default_rng(seed).choice(total, min(total, count), replace=False)).astype(np.int64)


def _picture(corpus: Corpus, i: int) -> str:
    try:
        tile = corpus.tile(i)
    except SarsenseError as error:
        return note(f"{corpus.key(i)} cannot be shown: {error}")
    names, texts, panels = tile.meta["polarisations"], [], []
    for name, codes in zip(names, tile.pixels[:2], strict=False):
        grey, low, high = stretched(corpus.scale.decode(codes), codes == NO_DATA)
        panels.append(np.repeat(grey[:, :, None], 3, axis=2))
        texts.append(f"{name} {low:.0f} to {high:.0f} dB")
    if tile.label is not None:
        panels.append(overlay(panels[0], tile.label, corpus.manifest.legend))
        texts.append("label")
    gap = np.full((panels[0].shape[0], 3, 3), 255, np.uint8)
    strip = [part for panel in panels for part in (panel, gap)][:-1]
    caption = f"{tile.key} · {tile.meta['sensor']} · {(tile.meta['time'] or '')[:10]} · {', '.join(texts)}"
    return figure(png(np.concatenate(strip, axis=1)), caption)


def stretched(level: NDArray[np.float32], missing: NDArray[np.bool_]) -> tuple[NDArray[np.uint8], float, float]:
    """Give grey levels between the 2 % and 98 % quantile of a band, and these; no-data is black.

    Large tiles are thinned to every n-th pixel, so that at most 224 are left on a side.
    """
    step = -(-max(level.shape) // SIDE)
    level, missing = level[::step, ::step], missing[::step, ::step]
    if missing.all():
        return np.zeros(level.shape, np.uint8), 0.0, 0.0
    low, high = np.quantile(level[~missing], (0.02, 0.98))
    share = (np.nan_to_num(level) - low) / max(high - low, 1e-3)
    grey = np.where(missing, 0, np.clip(share, 0, 1) * 255).astype(np.uint8)
    return grey, float(low), float(high)


def overlay(
    picture: NDArray[np.uint8], label: NDArray[np.uint8], legend: Mapping[str, Any] | None
) -> NDArray[np.uint8]:
    """Lay the classes of a label over a picture in the legend's colours; 255 is left as it is."""
    step = -(-max(label.shape) // SIDE)
    label = label[::step, ::step]
    colours = np.array([_CLASS_COLOURS[i % len(_CLASS_COLOURS)] for i in range(256)], np.float32)
    classes = (legend or {}).get("classes", [])
    for entry in classes if isinstance(classes, list) else []:
        if isinstance(entry, dict) and isinstance(entry.get("id"), int) and len(entry.get("colour") or ()) == 3:
            colours[entry["id"] % 256] = entry["colour"]
    mixed = 0.45 * picture + 0.55 * colours[label]
    return np.where((label == 255)[:, :, None], picture, mixed).astype(np.uint8)


def _lineage(corpora: Sequence[Corpus]) -> list[str]:
    nodes: dict[str, tuple[str, Sequence[str]]] = {}
    cut = False
    for corpus in corpora:
        names: dict[str, list[str]] = {}
        for tag, digest in tags(corpus.store).items():
            names.setdefault(digest, []).append(tag)
        waiting = [corpus.manifest]
        while waiting:
            if len(nodes) >= MOST_VERSIONS:
                cut = True
                break
            manifest = waiting.pop(0)
            parents = manifest.lineage.parents if manifest.lineage else ()
            nodes[manifest.digest] = (_node(manifest, names.get(manifest.digest, [])), parents)
            for parent in (p for p in parents if p not in nodes):
                found = _version(corpus.store, parent)
                if found is None:
                    nodes[parent] = (f"{parent[:12]}\nin another corpus", ())
                else:
                    waiting.append(found)
    told = [note(f"Only {MOST_VERSIONS} versions are drawn.")] if cut else []
    dials = [
        (m.digest[:12], m.lineage.made_by, "; ".join(f"{k} = {v}" for k, v in m.lineage.dials.items()))
        for m in (corpus.manifest for corpus in corpora)
        if m.lineage
    ]
    drawn_graph = figure(
        lineage(nodes, [c.manifest.digest for c in corpora]), "Versions, from parents to children; yellow: shown here."
    )
    return [drawn_graph, *told, table(("version", "made by", "dials"), dials) if dials else ""]


def _node(manifest: Manifest, names: Sequence[str]) -> str:
    made = manifest.lineage.made_by if manifest.lineage else "build"
    label = f"{made} · {manifest.tiles:,} tiles\n{manifest.digest[:12]}"
    return label + (f"\n@{', @'.join(sorted(names)[:3])}" if names else "")


def _version(store: Store, digest: str) -> Manifest | None:
    try:
        return parse(store.get(version_key(digest)), f"{store.url}/{version_key(digest)}")
    except NotFound:
        return None
