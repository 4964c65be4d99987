"""Whether an encoder has seen the ground on which it is to be tested."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from infra.errors import UsageError
from infra.store import NotFound, open_store, split_object
from shards.manifest import Manifest, Source, read_manifest, version_key
from shards.outline import ground_polygon

Shapes = NDArray[np.object_]


@dataclass(frozen=True, slots=True)
class Seen:
    """A pretraining scene over a test scene: the share (0..1) of the test scene's ground it covers.

    ``same`` says that it is the very product, by its fingerprint.
    """

    scene: str
    share: float
    time: str | None
    same: bool


@dataclass(frozen=True, slots=True)
class Leak:
    """A test scene: the share of its ground that pretraining has seen in all, and the scenes that showed it.

    ``share`` is None where the test scene has no footprint; then only equal products can be found.
    """

    scene: str
    share: float | None
    seen: tuple[Seen, ...]

    @property
    def found(self) -> bool:
        """Tell whether anything of it was seen."""
        return bool(self.seen)

    def plain(self) -> dict[str, Any]:
        """Give everything as plain data."""
        return asdict(self)


def pretraining_manifest(what: str, corpus: str | None) -> Manifest:
    """Find the manifest that an encoder was pretrained on, or that of a corpus itself.

    ``what`` is the URL of a corpus, or of an encoder.safetensors (or the folder of its run), whose card names the
    manifest by digest; ``corpus`` is then where that version is kept. Raises UsageError where it cannot be found.
    """
    if not what.endswith(".safetensors"):
        try:
            return read_manifest(what)[1]
        except UsageError:
            encoder = f"{what.rstrip('/')}/encoder.safetensors"
            if not _is_there(encoder):
                raise UsageError(
                    f"{what} is no corpus, no encoder and no run with an encoder: expected one of them"
                ) from None
            what = encoder
    digest = _card_digest(what)
    if corpus is None:
        raise UsageError(
            f"{what} was pretrained on manifest {digest[:12]}: say with --pretrained-on where that corpus is kept"
        )
    return _version(corpus, digest, what)


def _is_there(url: str) -> bool:
    root, key = split_object(url)
    try:
        open_store(root).info(key)
    except NotFound:
        return False
    return True


def _card_digest(url: str) -> str:
    from pretrain.export import EncoderCard, read_header

    root, key = split_object(url)
    try:
        card = EncoderCard.model_validate_json(read_header(open_store(root).get(key))["sarsense"])
    except (ValueError, KeyError) as error:
        raise UsageError(f"{url} is not an encoder of this project: expected encoder.safetensors") from error
    if not card.manifest_digest:
        raise UsageError(f"{url} does not say what it was pretrained on: give the corpus itself instead")
    return card.manifest_digest


def _version(corpus: str, digest: str, encoder: str) -> Manifest:
    store, current = read_manifest(corpus)
    if current.digest == digest:
        return current
    try:
        return read_manifest(f"{store.url}/{version_key(digest)}")[1]
    except UsageError:
        raise UsageError(
            f"{encoder} was pretrained on manifest {digest[:12]}, which {store.url} does not keep; its current version"
            f" is {current.digest[:12]}"
        ) from None


def leaks(pretraining: Iterable[Source], test: Iterable[Source], least_share: float = 0.0) -> list[Leak]:
    """Compare the ground of pretraining scenes with that of test scenes, every test scene in its order.

    Shares are of true area (on the sphere, whose cylinder projection keeps areas). Overlaps of at most
    ``least_share`` are left out.
    """
    known = list(pretraining)
    shapes = np.array([equal_area(source) for source in known], dtype=object)
    placed = np.flatnonzero(~shapely.is_missing(shapes)) if len(known) else np.zeros(0, np.int64)
    tree = shapely.STRtree(shapes[placed]) if placed.size else None
    return [_leak(source, known, shapes, placed, tree, least_share) for source in test]


def _leak(
    source: Source,
    known: Sequence[Source],
    shapes: Shapes,
    placed: NDArray[np.int64],
    tree: Any,
    least: float,
) -> Leak:
    same = {n for n, other in enumerate(known) if other.fingerprint == source.fingerprint}
    area = equal_area(source)
    if area is None:
        found = tuple(Seen(known[n].id, 1.0, known[n].time, True) for n in sorted(same))
        return Leak(source.id, None, found)
    near = placed[tree.query(area, predicate="intersects")] if tree is not None else np.zeros(0, np.int64)
    common = shapely.intersection(shapes[near], area)
    shares = shapely.area(common) / area.area
    whole = float(shapely.union_all(common[shares > least]).area / area.area)
    listed = {int(n): float(s) for n, s in zip(near, shares, strict=True) if s > least}
    listed |= dict.fromkeys(same - listed.keys(), 1.0)
    ordered = sorted(listed, key=lambda n: (-listed[n], known[n].id))
    seen = tuple(Seen(known[n].id, min(listed[n], 1.0), known[n].time, n in same) for n in ordered)
    return Leak(source.id, min(whole, 1.0), seen)


def equal_area(source: Source) -> Any:
    """Give a scene's ground as a polygon in Lambert's cylindrical equal-area projection of the sphere, or None."""
    if source.footprint is None or len(source.footprint) < 3:
        return None
    polygon = ground_polygon([x for corner in source.footprint for x in corner])
    if polygon is None or not polygon.area:
        return None
    return shapely.transform(polygon, lambda xy: np.stack([np.radians(xy[:, 0]), np.sin(np.radians(xy[:, 1]))], 1))
