"""A version of a corpus as one value: which shards, made how, from which scenes; named by its digest."""

import functools
import json
import re
from typing import Annotated, Any, Literal, NoReturn, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from infra.errors import SarsenseError, UsageError
from infra.record import canonical_json, digest, sha256
from infra.store import AlreadyExists, NotFound, Store, open_store, split_object
from shards.codec import Codec
from shards.tile import DbScale

ROOT_KEY = "manifest.json"
MAX_BYTES = 256 * 2**20
"""A larger manifest is refused before it is read."""

_KEY = re.compile(r"(?!.*(^|/)\.{1,2}(/|$))[A-Za-z0-9._=+@-]+(/[A-Za-z0-9._=+@-]+)*", re.ASCII)


class ManifestError(SarsenseError):
    """A manifest is damaged, hostile or of another format."""


def check_key(key: str) -> str:
    """Pass a relative object key; raise ValueError for a URL, an absolute path, ``..`` or odd characters."""
    if len(key) > 1000 or not _KEY.fullmatch(key):
        raise ValueError(f"{key[:80]!r} is not a key inside the corpus: expected letters, digits and ._=+@-/, no '..'")
    return key


Key = Annotated[str, AfterValidator(check_key)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Shard(_Frozen):
    """One tar file: its key in the corpus, SHA-256, size in bytes and number of tiles."""

    key: Key
    sha256: Sha256
    bytes: Count
    tiles: Count


class IndexPart(_Frozen):
    """One GeoParquet file of the patch index; the parts in order are the index."""

    key: Key
    sha256: Sha256
    bytes: Count
    rows: Count


class SourceGrid(_Frozen):
    """Where a map-projected scene lies: EPSG code and affine (a, b, c, d, e, f) in rasterio's order."""

    epsg: int
    transform: tuple[float, float, float, float, float, float]


class Source(_Frozen):
    """A scene that gave tiles.

    ``shape`` is (rows, cols), ``spacing_m`` (row, col), ``footprint`` (lon, lat) corners, ``ground`` tie points
    (row, col, lon, lat), ``fingerprint`` the SHA-256 that names the product's content.
    """

    id: str
    sensor: str
    product: str
    mode: str
    polarisations: tuple[str, ...]
    shape: tuple[int, int]
    spacing_m: tuple[float, float] | None
    time: str | None
    orbit: str | None
    fingerprint: str
    footprint: tuple[tuple[float, float], ...] | None
    grid: SourceGrid | None = None
    ground: tuple[tuple[float, float, float, float], ...] = ()
    tiles: Count
    warnings: tuple[str, ...] = ()


class Manifest(_Frozen):
    """What a corpus is. Holds no wall time, host or absolute path, so that equal content has an equal digest."""

    format: Literal["sarsense-manifest-1"] = "sarsense-manifest-1"
    recipe: dict[str, Any]
    recipe_digest: Sha256
    pixels_digest: Sha256
    scale: DbScale
    codec: Codec
    legend: dict[str, Any] | None = None
    shards: tuple[Shard, ...]
    index: tuple[IndexPart, ...]
    sources: tuple[Source, ...]
    tiles: Count
    bytes: Count

    @model_validator(mode="after")
    def _sums_agree(self) -> Self:
        keys = [shard.key for shard in self.shards] + [part.key for part in self.index]
        if len(set(keys)) != len(keys):
            raise ValueError("the same key stands for two objects")
        totals = {"shards": sum(s.tiles for s in self.shards), "sources": sum(s.tiles for s in self.sources)}
        for name, total in totals.items():
            if total != self.tiles:
                raise ValueError(f"{name} hold {total} tiles, the manifest says {self.tiles}")
        if (rows := sum(part.rows for part in self.index)) != self.tiles:
            raise ValueError(f"the index has {rows} rows for {self.tiles} tiles")
        if (size := sum(shard.bytes for shard in self.shards)) != self.bytes:
            raise ValueError(f"shards hold {size} bytes, the manifest says {self.bytes}")
        return self

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON (64 hex digits): the name of this version."""
        return digest(self.model_dump(mode="json"))


def publish(store: Store, manifest: Manifest) -> str:
    """Make a manifest the corpus's current version and give its digest.

    Everything it names must be stored already. ``manifests/<digest>.json`` comes first, ``manifest.json`` last
    and in one put, so that a reader sees the old version or the new one.
    """
    data = canonical_json(manifest.model_dump(mode="json"))
    key = version_key(manifest.digest)
    try:
        store.put_once(key, data)
    except AlreadyExists:
        if store.get(key) != data:
            store.put(key, data)  # the name is the content, so what was there is damaged
    store.put(ROOT_KEY, data)
    return manifest.digest


def current_digest(store: Store) -> str | None:
    """Name the version that a corpus shows now, whatever its content; None where there is none yet."""
    try:
        return sha256(store.get(ROOT_KEY))
    except NotFound:
        return None


def version_key(digest: str) -> str:
    """Give the key under which a corpus keeps the version of this digest."""
    return f"manifests/{digest}.json"


def read_manifest(url: str) -> tuple[Store, Manifest]:
    """Read a corpus's manifest, checked, and the store that its keys belong to.

    ``url`` is the corpus's root (its current version), one version's ``.../manifests/<digest>.json``, or any
    other ``.json``. Raises UsageError where there is none and ManifestError where it is damaged or hostile.
    """
    root, key = _locate(url)
    store = open_store(root)
    try:
        size = store.info(key).size
        if size > MAX_BYTES:
            raise ManifestError(f"{root}/{key} has {size} bytes: a manifest has at most {MAX_BYTES}")
        data = store.get(key)
    except NotFound as error:
        raise UsageError(f"no corpus at {url}: there is no {root}/{key}; give the folder that holds it") from error
    manifest = parse(data, f"{root}/{key}")
    _check_name(store, key, manifest.digest)
    return store, manifest


def parse(data: bytes, name: str) -> Manifest:
    """Read a manifest from its bytes; ``name`` says in a message where they are from. Raises ManifestError."""
    try:
        manifest = Manifest.model_validate(json.loads(data, parse_constant=_no_constant))
        if sha256(data) != manifest.digest:
            raise ManifestError(f"{name} was changed after it was published: it is not in canonical form")
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
        raise ManifestError(f"{name} is not a valid manifest: {faults}") from error
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{name} is not JSON of a manifest: {error}") from error
    return manifest


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number of JSON")


def _locate(url: str) -> tuple[str, str]:
    if not url.endswith(".json"):
        return url.rstrip("/") or "/", ROOT_KEY
    root, name = split_object(url)
    if root == "manifests":
        return ".", f"manifests/{name}"
    if root.endswith("/manifests"):
        return root.removesuffix("/manifests") or "/", f"manifests/{name}"
    return root, name


def _check_name(store: Store, key: str, found: str) -> None:
    # A flipped bit may leave valid JSON behind, but not the name of that content.
    if key.startswith("manifests/") and key != version_key(found):
        raise ManifestError(f"{store.url}/{key} is damaged: its content has the digest {found}")
    if key == ROOT_KEY:
        try:
            store.info(version_key(found))
        except NotFound as error:
            raise ManifestError(
                f"{store.url}/{key} is damaged: its digest is {found}, and no such version is in manifests/; "
                "open one of the versions there instead"
            ) from error
