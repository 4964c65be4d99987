"""A version of a corpus as one value: which shards, made how, from which scenes; named by its digest."""

import functools
import json
import re
from typing import Annotated, Any, ClassVar, Literal, NoReturn, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from infra.errors import ConflictError, SarsenseError, UsageError
from infra.record import canonical_json, digest, sha256
from infra.store import AlreadyExists, NotFound, Store, open_store, split_object
from shards.codec import Codec
from shards.heads import head, resolve, take_head
from shards.mounts import with_mounts
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


class _Sparse(_Frozen):
    """A value whose fields of a later time are left out of its JSON while they say nothing."""

    _silent: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _said(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = serialise(self)
        return {name: value for name, value in data.items() if value is not None or name not in self._silent}


class Shard(_Sparse):
    """One tar file: its key in the corpus, SHA-256, size in bytes and number of tiles.

    ``members`` is the number of tiles in the file where this version takes only ``tiles`` of them.
    """

    _silent = ("members",)

    key: Key
    sha256: Sha256
    bytes: Count
    tiles: Count
    members: Count | None = None


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


class Source(_Sparse):
    """A scene that gave tiles.

    ``shape`` is (rows, cols), ``spacing_m`` (row, col), ``footprint`` (lon, lat) corners, ``ground`` tie points
    (row, col, lon, lat), ``fingerprint`` the SHA-256 that names the product's content, ``weight`` how often per epoch
    its tiles are to be read where that is not once.
    """

    _silent = ("weight",)

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
    weight: Annotated[float, Field(gt=0, le=1000)] | None = None


class Lineage(_Frozen):
    """From which versions (digests) a version was made, how, and with which dials."""

    made_by: str
    parents: tuple[Sha256, ...]
    dials: dict[str, Any] = {}


class Manifest(_Sparse):
    """What a corpus is. Holds no wall time, host or absolute path, so that equal content has an equal digest."""

    _silent = ("lineage",)

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
    lineage: Lineage | None = None

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


class _Any:
    """Stands for: whatever version is the current one."""


ANY = _Any()


def publish(store: Store, manifest: Manifest, after: str | _Any | None = ANY) -> str:
    """Make a manifest the corpus's current version and give its digest.

    Everything it names must be stored already. Its bytes come first, under ``manifests/<digest>.json``; then it takes
    the next number among the versions, which of several writers exactly one gets; ``manifest.json`` comes last and in
    one put, so that a reader sees the old version or the new one. ``after`` is the version that this one was made to
    follow (None for the first): ConflictError where another one came between.
    """
    add_version(store, manifest)
    digest = manifest.digest
    number, current = head(store)[0], current_digest(store)
    if current != digest:
        if not isinstance(after, _Any) and current != after:
            raise ConflictError(
                f"another version, {str(current)[:16]}, was published at {store.url} while {digest[:16]} was made;"
                " nothing of it was changed: run again, or publish to another place"
            )
        take_head(store, number + 1, digest, current)
    _show_head(store, digest)
    return digest


def add_version(store: Store, manifest: Manifest) -> str:
    """Keep a version under its digest without making it the current one; give its digest."""
    data = canonical_json(manifest.model_dump(mode="json"))
    key = version_key(manifest.digest)
    try:
        store.put_once(key, data)
    except AlreadyExists:
        if store.get(key) != data:
            store.put(key, data)  # the name is the content, so what was there is damaged
    return manifest.digest


def _show_head(store: Store, digest: str) -> None:
    """Copy the current version to where readers look; again where another writer went on meanwhile."""
    while True:
        store.put(ROOT_KEY, store.get(version_key(digest)))
        latest = head(store)[1] or digest
        if latest == digest:
            return
        digest = latest


def current_digest(store: Store) -> str | None:
    """Name a corpus's current version, whatever its content; None where there is none yet.

    It may be newer than what readers still see where a writer died at the very end; the next one puts that right.
    """
    if (latest := head(store)[1]) is not None:
        return latest
    try:
        return sha256(store.get(ROOT_KEY))
    except NotFound:
        return None


def version_key(digest: str) -> str:
    """Give the key under which a corpus keeps the version of this digest."""
    return f"manifests/{digest}.json"


def read_manifest(url: str) -> tuple[Store, Manifest]:
    """Read a corpus's manifest, checked, and the store that its keys belong to.

    ``url`` is the corpus's root (its current version), a root with a tag or the first digits of a digest
    (``.../corpus@v3``), one version's ``.../manifests/<digest>.json``, or any other ``.json``. Raises UsageError
    where there is none and ManifestError where it is damaged or hostile.
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
    return with_mounts(store), manifest


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
        root, name = split_version(url)
        return root, version_key(resolve(open_store(root), name)) if name else ROOT_KEY
    root, name = split_object(url)
    if root == "manifests":
        return ".", f"manifests/{name}"
    if root.endswith("/manifests"):
        return root.removesuffix("/manifests") or "/", f"manifests/{name}"
    return root, name


def split_version(url: str) -> tuple[str, str]:
    """Split ``corpus@version`` into root and version; the version is empty where none is named."""
    root = url.rstrip("/") or "/"
    place, mark, name = root.rpartition("@")
    return (place, name) if mark and place and "/" not in name else (root, "")


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
