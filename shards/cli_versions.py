"""The commands that make and keep versions: select, split, merge, pin, diff, copy, gc."""

import json
import time
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter
from cyclopts.validators import Number

from infra.command import say
from infra.errors import UsageError
from infra.log import Steps

if TYPE_CHECKING:
    from shards.manifest import Manifest
    from shards.reader import Corpus

Url = Annotated[str, Parameter(help="A corpus (folder, file://, s3://), also as CORPUS@TAG or CORPUS@DIGEST.")]
Tag = Annotated[str | None, Parameter(help="Name the new version so; without it only its digest names it.")]
Flag = Parameter(negative="", show_default=False)
Json = Annotated[bool, Parameter("--json", negative="", show_default=False, help="Print JSON for programs.")]


def select(
    url: Url,
    /,
    *,
    query: str = "true",
    balance: str | None = None,
    most: Annotated[int, Parameter(validator=Number(gte=1))] = 1000,
    drop_twins: Annotated[bool, Flag] = False,
    drop_alike: Annotated[float | None, Parameter(validator=Number(gt=0.5, lt=1))] = None,
    threads: Annotated[int, Parameter(validator=Number(gte=1))] = 2,
    seed: int = 0,
    tag: Tag = None,
    json_: Json = False,
) -> None:
    """Make a version of the tiles that a query on the index chooses; no pixel is copied.

    The corpus's current version stays what it is: the new one is found as CORPUS@TAG or CORPUS@DIGEST.

    Args:
        query: an SQL condition (DuckDB) on the index, such as "sensor = 'sentinel-1' and valid_share > 0.9".
        balance: keep at most --most tiles for each value of this column.
        most: how many tiles of each value.
        drop_twins: keep one of several tiles with the same pixels.
        drop_alike: keep one of several tiles that look alike, as the same ground on another date: their levels on
            a grid of 8 x 8 cells correlate by at least this much, such as 0.98. Reads every tile.
        threads: of reading, for --drop-alike.
        seed: decides which tiles are kept where not all can be.
    """
    from shards import derive
    from shards.manifest import Lineage
    from shards.reader import Corpus

    corpus = Corpus.open(url)
    chosen = derive.where(corpus.table, query)
    dials: dict[str, object] = {"query": query}
    if drop_twins:
        chosen &= derive.first_of_twins(corpus.table)
        dials["drop_twins"] = True
    if drop_alike is not None:
        from shards.alike import CELLS, first_of_alike

        with Steps("tiles", 0, int(chosen.sum())) as steps:
            chosen = first_of_alike(corpus, chosen, drop_alike, threads=threads, done=steps.update)
        dials |= {"drop_alike": drop_alike, "signature": f"mean dB on {CELLS} x {CELLS} cells"}
    if balance is not None:
        left = derive.balanced(corpus.table.filter(chosen), balance, most, seed)
        chosen[chosen.nonzero()[0][~left]] = False
        dials |= {"balance": balance, "most": most, "seed": seed}
    lineage = Lineage(made_by="select", parents=(corpus.manifest.digest,), dials=dials)
    _keep(corpus, derive.take(corpus, chosen, lineage), tag, json_)


def split(
    url: Url,
    /,
    *,
    by: Literal["scene", "bands"] = "scene",
    parts: str = "train=60,val=20,test=20",
    seed: int = 0,
    bands: Annotated[int, Parameter(validator=Number(gte=2))] = 60,
    angle: float = 0.9,
    tag: Tag = None,
    json_: Json = False,
) -> None:
    """Split a corpus into versions that share no ground: whole scenes, or stripes of the map.

    Each part gets the tag TAG-PART (or PART). Scenes that overlap each other are better split by bands.

    Args:
        by: deal whole scenes, or geographic bands across the bounding box.
        parts: names and shares.
        seed: decides which scene goes where.
        bands: number of stripes.
        angle: direction of the stripes in radians, -pi/2 to pi/2.
    """
    from shards import derive
    from shards.manifest import Lineage
    from shards.reader import Corpus

    shares = _shares(parts)
    corpus = Corpus.open(url)
    if by == "scene":
        chosen = derive.parts_by_scene(corpus, shares, seed)
        dials: dict[str, object] = {"by": by, "parts": shares, "seed": seed}
    else:
        chosen = derive.parts_by_band(corpus, shares, angle, bands)
        dials = {"by": by, "parts": shares, "bands": bands, "angle_rad": angle}
    made = {}
    for name, rows in chosen.items():
        lineage = Lineage(made_by="split", parents=(corpus.manifest.digest,), dials={**dials, "part": name})
        if not rows.any():
            raise UsageError(f"no tile falls to {name}: give it a larger share, more bands or another seed")
        made[name] = derive.take(corpus, rows, lineage)
    for name, manifest in made.items():
        _keep(corpus, manifest, f"{tag}-{name}" if tag else name, json_)


def weigh(
    url: Url,
    weights: str,
    /,
    *,
    by: Literal["sensor", "id", "mode", "product"] = "sensor",
    tag: Tag = None,
    json_: Json = False,
) -> None:
    """Make a version in which some scenes are read more often per epoch than others, or less often.

    Args:
        weights: VALUE=WEIGHT,VALUE=WEIGHT, such as sentinel-1=0.5,alos-2=3; scenes of other values keep theirs.
        by: what the values are.
    """
    from shards import derive
    from shards.manifest import Lineage
    from shards.reader import Corpus

    chosen = _numbers(weights, "WEIGHTS")
    corpus = Corpus.open(url)
    lineage = Lineage(made_by="weigh", parents=(corpus.manifest.digest,), dials={"by": by, "weights": chosen})
    _keep(corpus, derive.weigh(corpus, by, chosen, lineage), tag, json_)


def merge(first: Url, *others: Url, out: str, tag: Tag = None, json_: Json = False) -> None:
    """Join corpora of equal pixels into one at OUT; their shards stay where they are and are mounted there.

    Args:
        out: where the new corpus goes: its manifest and index, no pixels. `shards copy` makes it stand alone.
    """
    from infra.store import open_store
    from shards import derive
    from shards.heads import set_tag
    from shards.manifest import publish
    from shards.mounts import write_mounts
    from shards.reader import Corpus

    if not others:
        raise UsageError("merge wants two corpora or more")
    store = open_store(out)
    manifest, places = derive.merge([Corpus.open(url) for url in (first, *others)], store)
    write_mounts(store, places)
    publish(store, manifest)
    if tag:
        set_tag(store, tag, manifest.digest)
    _tell(store.url, manifest, tag, json_)


def pin(
    url: Url,
    name: str | None = None,
    /,
    *,
    move: Annotated[bool, Flag] = False,
    drop: Annotated[bool, Flag] = False,
    json_: Json = False,
) -> None:
    """Name a version, so that CORPUS@NAME finds it and gc keeps it; without a name, list the names.

    Args:
        name: a letter, then letters, digits, '.', '_' or '-'.
        move: the name may stand for another version until now.
        drop: forget the name; the version stays.
    """
    from infra.store import open_store
    from shards.heads import drop_tag, set_tag, tags
    from shards.manifest import read_manifest, split_version

    store = open_store(split_version(url)[0])
    if name is None:
        found = tags(store)
        say(json.dumps(found, indent=2) if json_ else "\n".join(f"{d[:16]}  {n}" for n, d in sorted(found.items())))
    elif drop:
        drop_tag(store, name)
    else:
        digest = read_manifest(url)[1].digest
        set_tag(store, name, digest, move=move)
        say(f"{store.url}@{name} is {digest}")


def diff(before: Url, after: Url, /, *, json_: Json = False) -> None:
    """Say what changed from one version to another: dials, scenes, tiles."""
    from shards.diff import diff as compare
    from shards.reader import Corpus

    found = compare(Corpus.open(before), Corpus.open(after))
    say(json.dumps(found.plain(), indent=2) if json_ else "\n".join(found.lines()))


def copy(
    url: Url,
    out: str,
    /,
    *,
    tag: Tag = None,
    threads: Annotated[int, Parameter(validator=Number(gte=1))] = 4,
    json_: Json = False,
) -> None:
    """Copy a version with all its shards and index to another place, checked; a second run takes up what is left.

    Args:
        out: the other place: a folder, file:///..., or s3://bucket/prefix.
        threads: objects at a time.
    """
    from infra.store import open_store
    from shards.heads import set_tag
    from shards.keep import copy_version
    from shards.manifest import read_manifest

    store, manifest = read_manifest(url)
    target = open_store(out)
    with Steps("copy", 0, len(manifest.shards) + len(manifest.index)) as bar:
        done = copy_version(store, manifest, target, threads=threads, progress=lambda n, _: bar.update(n))
    if tag:
        set_tag(target, tag, manifest.digest)
    result = {"corpus": target.url, "digest": done.digest, "objects": done.objects, "bytes": done.bytes}
    say(json.dumps({**result, "there": done.there}) if json_ else _lines({**result, "there": done.there}))


def gc(
    url: Url,
    /,
    *,
    versions: Annotated[bool, Flag] = False,
    unfinished: Annotated[bool, Flag] = False,
    mark: Annotated[bool, Flag] = False,
    delete: Annotated[bool, Flag] = False,
    after_hours: Annotated[float, Parameter(validator=Number(gte=0))] = 24.0,
    json_: Json = False,
) -> None:
    """List what no version of a corpus needs; with --mark and a day later --delete, delete it.

    A build that is running has shards which no version names yet. So --delete only takes what an earlier --mark found.

    Args:
        versions: also versions that are neither current nor tagged nor ancestors of such.
        unfinished: also the shards of builds that were never published.
        mark: remember the list with the time.
        delete: delete what was marked long enough ago and is still garbage.
        after_hours: how long ago.
    """
    from infra.store import open_store
    from shards.keep import garbage, sweep
    from shards.keep import mark as remember

    store = open_store(url)
    found = garbage(store, versions=versions, unfinished=unfinished)
    if mark:
        remember(store, found, time.time())
    if delete:
        found = sweep(store, found, time.time(), after_hours * 3600)
    how = "deleted" if delete else "marked" if mark else "found"
    if json_:
        say(json.dumps({how: [key for key, _ in found.objects], "bytes": found.bytes, "versions": found.versions}))
        return
    for key, size in found.objects:
        say(f"{size / 1e6:>10.3f} MB  {key}")
    say(f"{how}: {len(found.objects)} objects, {found.bytes / 1e6:.3f} MB, {len(found.versions)} versions")


def _numbers(text: str, what: str) -> dict[str, float]:
    try:
        return {name.strip(): float(number) for name, number in (part.rsplit("=", 1) for part in text.split(","))}
    except ValueError as error:
        raise UsageError(f"{what} {text!r}: expected NAME=NUMBER,NAME=NUMBER") from error


def _shares(text: str) -> dict[str, float]:
    shares = _numbers(text, "--parts")
    if len(shares) < 2 or min(shares.values()) <= 0:
        raise UsageError(f"--parts {text!r}: expected two parts or more, each with a share above 0")
    return shares


def _keep(corpus: "Corpus", manifest: "Manifest", tag: str | None, json_: bool) -> None:
    from shards.heads import set_tag
    from shards.manifest import add_version

    add_version(corpus.store, manifest)
    if tag:
        set_tag(corpus.store, tag, manifest.digest, move=True)
    _tell(corpus.store.url, manifest, tag, json_)


def _tell(url: str, manifest: "Manifest", tag: str | None, json_: bool) -> None:
    name = f"{url}@{tag or manifest.digest[:16]}"
    result = {"version": name, "digest": manifest.digest, "tiles": manifest.tiles, "shards": len(manifest.shards)}
    say(json.dumps(result) if json_ else _lines(result))


def _lines(result: dict[str, object]) -> str:
    return "\n".join(f"{name:8} {value}" for name, value in result.items())


def add_to(app: App) -> None:
    """Add the commands to the ``shards`` command."""
    for command in (select, split, weigh, merge, pin, diff, copy, gc):
        app.command(command)
