"""Which tiles teach, which choose among models, which test: parts of a corpus that share no ground."""

import csv
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray

from finetune.datasets import shared_ground
from infra.errors import UsageError
from infra.memory import MemoryStore
from shards.derive import take
from shards.index import read_index
from shards.manifest import Lineage, Source
from shards.reader import Corpus

SameGround = Literal["refuse", "drop", "keep"]
Chosen = NDArray[np.bool_]
PARTS = ("train", "validate", "test")

_LISTS = (".txt", ".csv")

LEAST_SHARE = 0.01
"""Tiles share ground where this share of the smaller one overlaps: neighbours touch by a pixel's breadth."""


@dataclass(frozen=True, slots=True)
class Split:
    """A corpus and the scenes of its parts; no scene is in two. ``notes`` say what was left out or may flatter.

    Where one scene's tiles fall to several parts (geographic bands), it stands there as ``<scene>@<part>``.
    """

    corpus: Corpus
    train: tuple[str, ...]
    validate: tuple[str, ...]
    test: tuple[str, ...]
    notes: tuple[str, ...] = ()


def split_corpus(corpus: Corpus, test: str, validate: str = "", same_ground: SameGround = "refuse") -> Split:
    """Divide the labelled tiles of a corpus; what is named neither ``test`` nor ``validate`` is to learn from.

    Parts are named by scene ids, by ``@VERSION`` (a tag that ``shards split`` made: its tiles, and so whole scenes or
    geographic bands), or by the path of a text file with a scene id in the first column of each line; several are
    separated by commas. Tiles of two parts that show the same ground are refused, dropped from the part that teaches
    or chooses, or kept with a note. Raises UsageError where that leaves a part empty.
    """
    labelled = corpus.rows.label_offset >= 0
    chosen = {"test": named_tiles(corpus, test), "validate": named_tiles(corpus, validate)}
    _check_named(corpus, chosen, labelled, validate)
    if (both := chosen["test"] & chosen["validate"]).any():
        name = corpus.table["scene"].filter(pa.array(both))[0].as_py()
        raise UsageError(f"scene {name} is named for testing and for choosing a model: a tile can only serve one")
    parts = {"train": labelled & ~chosen["test"] & ~chosen["validate"], **{p: chosen[p] for p in ("validate", "test")}}
    if not parts["train"].any():
        raise UsageError(f"all {len(_scenes(corpus, labelled))} scenes are held out: leave at least one to learn from")
    notes = list[str]()
    for later, earlier in (("test", "validate"), ("test", "train"), ("validate", "train")):
        same = same_ground_tiles(corpus, parts[earlier] & labelled, parts[later])
        if same.any():
            notes.append(_same_ground(corpus, same, (earlier, later), same_ground, parts))
    for name in ("train", "validate"):
        if not (parts[name] & labelled).any() and (name == "train" or validate):
            raise UsageError(f"every tile of the {name} part shows ground of another part: nothing of it is left")
    return _settled(corpus, parts, labelled, tuple(notes))


def named_tiles(corpus: Corpus, text: str) -> Chosen:
    """Tell which tiles are named by scene ids, ``@VERSION`` or a file of ids. Raises UsageError for unknown names."""
    chosen = np.zeros(len(corpus), bool)
    for name in (part.strip() for part in text.split(",") if part.strip()):
        if name.startswith("@"):
            chosen |= _of_version(corpus, name)
        else:
            chosen |= _of_scenes(corpus, _ids(name))
    return chosen


def scenes_of(corpus: Corpus, text: str) -> list[str]:
    """Give the scenes that are named as in ``named_tiles``, sorted. Raises UsageError for none or unknown ones."""
    chosen = named_tiles(corpus, text)
    if not chosen.any():
        raise UsageError(f"no scene is named by {text!r}; {corpus.store.url} has {_listed(_scenes(corpus))}")
    return _scenes(corpus, chosen)


def named_part(corpus: Corpus, text: str) -> Corpus:
    """Give the corpus without those tiles of the named scenes that are not named: of a version by bands, its bands."""
    chosen = named_tiles(corpus, text)
    others = _of_scenes(corpus, _scenes(corpus, chosen)) & ~chosen
    return only(corpus, ~others, "naming", {"tiles": int(chosen.sum())}) if others.any() else corpus


def ids_of(text: str) -> str:
    """Write out files of ids in what ``named_tiles`` takes, for workers that do not see those files."""
    return ",".join(one for part in text.split(",") if part.strip() for one in _ids(part.strip()))


def _ids(name: str) -> list[str]:
    path = Path(name)
    if path.suffix not in _LISTS or not path.is_file():
        return [name]
    with path.open(newline="") as file:
        return [row[0].strip() for row in csv.reader(file) if row and row[0].strip() and not row[0].startswith("#")]


def _of_version(corpus: Corpus, name: str) -> Chosen:
    other = Corpus.open(f"{corpus.store.url}{name}")
    found: Chosen = pc.is_in(corpus.table["key"], other.table["key"].combine_chunks()).to_numpy(zero_copy_only=False)
    if int(found.sum()) != len(other):
        raise UsageError(
            f"version {name} has {len(other) - int(found.sum())} tiles that this version of {corpus.store.url} lacks:"
            " give the version that was split as the data"
        )
    return found


def _of_scenes(corpus: Corpus, names: Sequence[str]) -> Chosen:
    known = _scenes(corpus)
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            guess = f" (did you mean {close[0]}?)" if close else ""
            there = "file, and no scene" if Path(name).suffix in _LISTS else "scene"
            raise UsageError(f"no {there} {name!r} in the corpus{guess}; it has {_listed(known)}")
    chosen: Chosen = pc.is_in(corpus.table["scene"], pa.array(names, pa.string())).to_numpy(zero_copy_only=False)
    return chosen


def _check_named(corpus: Corpus, chosen: Mapping[str, Chosen], labelled: Chosen, validate: str) -> None:
    for part, rows in chosen.items():
        if rows.any() and not (rows & labelled).any():
            names = _listed(_scenes(corpus, rows))
            raise UsageError(f"no tile of {names} is labelled: nothing can be scored in the {part} part")
    if not chosen["test"].any():
        names = _listed(_scenes(corpus, labelled))
        raise UsageError(f"no scene is held out, so nothing can be scored: choose some of {names}")
    if validate and not chosen["validate"].any():
        raise UsageError("no scene is named to choose a model by")


def same_ground_tiles(corpus: Corpus, ours: Chosen, theirs: Chosen) -> Chosen:
    """Tell which of our tiles show ground of theirs; tiles without a place are judged by their whole scene's."""
    result = np.zeros(len(corpus), bool)
    shapes = shapely.from_wkb(np.asarray(corpus.table["geometry"].to_pylist(), dtype=object))
    placed = ~shapely.is_missing(shapes)
    a, b = np.flatnonzero(ours & placed), np.flatnonzero(theirs & placed)
    if a.size and b.size:
        result[a[overlapping(shapes[a], shapes[b])]] = True
    if not placed.all():
        pairs = shared_ground(corpus.manifest.sources, _scenes(corpus, ours), _scenes(corpus, theirs))
        same = {one for one, other in pairs if one != other}
        result |= ours & ~placed & _of_scenes(corpus, sorted(same)) if same else False
    return result


def overlapping(ours: NDArray[np.object_], theirs: NDArray[np.object_]) -> Chosen:
    """Tell which of our shapes overlap one of theirs by more than touching."""
    mine, other = shapely.STRtree(theirs).query(ours, predicate="intersects")
    both = shapely.area(shapely.intersection(ours[mine], theirs[other]))
    smaller = np.minimum(shapely.area(ours[mine]), shapely.area(theirs[other]))
    found = np.zeros(len(ours), bool)
    found[mine[both > LEAST_SHARE * smaller]] = True
    return found


def _same_ground(
    corpus: Corpus, same: Chosen, names: tuple[str, str], what: SameGround, parts: dict[str, Chosen]
) -> str:
    earlier, later = names
    scenes = _listed(_scenes(corpus, same))
    said = f"{int(same.sum())} tiles of the {earlier} part show ground of the {later} part (scenes {scenes})"
    if what == "refuse":
        raise UsageError(
            f"{said}: scores would flatter. Leave those tiles out (--same-ground drop), choose other scenes, or allow"
            " it (--same-ground keep)"
        )
    if what == "keep":
        return f"{said}: scores will flatter"
    parts[earlier] = parts[earlier] & ~same
    return f"{said}: they are left out"


def _settled(corpus: Corpus, parts: Mapping[str, Chosen], labelled: Chosen, notes: tuple[str, ...]) -> Split:
    """Give the split as scenes; a scene that serves two parts is divided into two under new names."""
    scenes = {part: _scenes(corpus, rows & labelled) for part, rows in parts.items()}
    shared = {s for s in scenes["train"] if s in scenes["test"] or s in scenes["validate"]}
    shared |= set(scenes["test"]) & set(scenes["validate"])
    used = np.any(list(parts.values()), axis=0)
    if shared or (labelled & ~used).any():
        corpus = divided(corpus, {p: rows for p, rows in parts.items() if rows.any()}, shared)
    named = {p: tuple(sorted(f"{s}@{p}" if s in shared else s for s in scenes[p])) for p in PARTS}
    return Split(corpus, named["train"], named["validate"], named["test"], notes)


def divided(corpus: Corpus, parts: Mapping[str, Chosen], shared: set[str]) -> Corpus:
    """Give the corpus of only these tiles; scenes in ``shared`` become one scene for each part, ``<scene>@<part>``."""
    names = np.array(corpus.table["scene"].to_pylist(), dtype=object)
    used = np.zeros(len(corpus), bool)
    for part, rows in parts.items():
        used |= rows
        names[rows] = [f"{name}@{part}" if name in shared else name for name in names[rows]]
    sources = [one for source in corpus.manifest.sources for one in _copies(source, tuple(parts), shared)]
    dials = {part: int(rows.sum()) for part, rows in parts.items()}
    return _version(corpus, used, "division", dials, names, sources)


def _copies(source: Source, parts: Sequence[str], shared: set[str]) -> list[Source]:
    if source.id not in shared:
        return [source]
    return [source.model_copy(update={"id": f"{source.id}@{part}"}) for part in parts]


def only(corpus: Corpus, tiles: Chosen, made_by: str, dials: Mapping[str, Any]) -> Corpus:
    """Give the version of a corpus that holds only these tiles; it lives in memory and nothing is stored.

    Its digest and lineage say what was done, so that runs on different choices are different runs.
    """
    return _version(corpus, tiles, made_by, dials)


def _version(
    corpus: Corpus,
    tiles: Chosen,
    made_by: str,
    dials: Mapping[str, Any],
    names: NDArray[np.object_] | None = None,
    sources: Sequence[Source] | None = None,
) -> Corpus:
    store, manifest, table = MemoryStore("finetune-versions"), corpus.manifest, corpus.table
    if names is not None:
        at = table.column_names.index("scene")
        table = table.set_column(at, "scene", pa.array(names.tolist(), pa.string()).dictionary_encode())
    if sources is not None:
        manifest = manifest.model_copy(update={"sources": tuple(sources)})
    lineage = Lineage(made_by=made_by, parents=(corpus.manifest.digest,), dials=dict(dials))
    made = take(Corpus(store, manifest, table), tiles, lineage)
    return Corpus(corpus.store, made, read_index(store, made), corpus.spans.cache)


def _scenes(corpus: Corpus, rows: Chosen | None = None) -> list[str]:
    column = corpus.table["scene"] if rows is None else corpus.table["scene"].filter(pa.array(rows))
    return sorted(str(name) for name in pc.unique(column).to_pylist())


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:12])
    return shown if len(names) <= 12 else f"{shown} and {len(names) - 12} more"
