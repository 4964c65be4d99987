"""One sample of a WebDataset that other programs wrote, as a tile: what it is, where it lies, packed anew."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from infra.record import canonical_json
from shards.codec import Codec, CodecError, decode_pixels
from shards.index import OPTIONAL, rows_table
from shards.tarscan import BadTar, Sample, json_object, npy_kind
from shards.tile import NO_DATA, DbScale
from shards.writer import BLOCK, padding, tar_header


@dataclass(frozen=True, slots=True)
class Meaning:
    """What the pixels of an imported corpus are, as a manifest says it, and what its tiles' JSON may leave out."""

    scale: DbScale
    pixels_digest: str
    recipe: Mapping[str, Any]
    legend: Mapping[str, Any] | None = None
    sensor: str = "chip"
    polarisations: tuple[str, ...] = ()


BUILD = (
    "what is not a tar file of uint16 codes in .npy goes through `ingest build-sarsense FOLDER --out URL`, with a "
    'chips.yaml in the folder such as\n  image: "*.png"\n  polarisations: [VV]\n  quantity: db\n'
    "  scale: 0.0980392  # decibels for each grey level: here 25 dB over 255 levels\n"
    "  offset_db: -25.0  # decibels of grey level 0\n  no_data: 0"
)


def codec_of(sample: Sample) -> Codec:
    """Say how a sample's pixels are stored. Raises BadTar, with what to do, where there are none we take."""
    codecs: tuple[Codec, ...] = ("npy", "blosc2")
    for codec in codecs:
        if codec in sample.members:
            return codec
    pictures = [s for s in sample.members if s.rpartition(".")[2].lower() in ("png", "jpg", "jpeg", "tif", "tiff")]
    if pictures:
        raise BadTar(f"sample {sample.key!r} is a picture (.{pictures[0]}), which has no codes to refer to: {BUILD}")
    raise BadTar(f"sample {sample.key!r} has no .npy member, only {', '.join(sorted(sample.members))}")


def is_plain(sample: Sample, codec: str) -> bool:
    """Whether the members' names and order are those of a tile, so that the file serves as it is."""
    order = [suffix for suffix in sample.members if suffix in (codec, "label.npy", "json")]
    names = [name == f"{sample.key}.{suffix}" for suffix, (name, _, _) in sample.members.items()]
    return all(names) and order in ([codec, "json"], [codec, "label.npy", "json"])


def describe(data: bytes, sample: Sample, codec: str, meaning: Meaning, stem: str) -> dict[str, Any]:
    """Give the index columns that follow from a sample's pixels and JSON; ``stem`` is the scene's name by default.

    Raises BadTar where pixels, label or JSON are not those of a tile.
    """

    def payload(suffix: str) -> bytes:
        _, offset, length = sample.members[suffix]
        return data[offset : offset + length]

    try:
        meta = json_object(payload("json")) if "json" in sample.members else {}
        codes = _codes(payload(codec), codec, meta)
        _check_label(payload("label.npy") if "label.npy" in sample.members else None, codes.shape[1:])
        known = _known(meta, codes, meaning, stem)
        rows_table([{**_NOWHERE, **known, "key": sample.key}])  # refuses what is of another type
        return {**known, "key": sample.key}
    except (BadTar, CodecError, ValueError, TypeError, KeyError) as error:
        raise BadTar(f"sample {sample.key!r}: {error}") from error


_NOWHERE = {f"{p}{n}": 0 for p in ("", "label_", "meta_") for n in ("offset", "length", "crc32c")} | {"shard": 0}


def _codes(payload: bytes, codec: str, meta: Mapping[str, Any]) -> NDArray[np.uint16]:
    if codec == "npy":
        shape, dtype = npy_kind(payload)
    else:
        shape, dtype = tuple(map(int, meta["shape"])), np.dtype(str(meta["dtype"]))
    if dtype.str == "|u1":
        raise BadTar(f"pixels are uint8 {shape}, not codes: {BUILD}")
    if dtype.str != "<u2" or len(shape) != 3 or 0 in shape or int(np.prod(shape, dtype=object)) > 2**31:
        raise BadTar(f"pixels are {dtype} {shape}: expected uint16 codes (bands, rows, cols), little-endian")
    codes: NDArray[np.uint16] = decode_pixels(payload, "npy" if codec == "npy" else "blosc2", shape, "<u2")
    return codes


def _check_label(payload: bytes | None, shape: tuple[int, ...]) -> None:
    if payload is None:
        return
    found, dtype = npy_kind(payload)
    if found != shape or dtype != np.uint8:
        raise BadTar(f"label is {dtype} {found}: expected uint8 {shape}")
    decode_pixels(payload, "npy", shape, "|u1")


def _known(meta: Mapping[str, Any], codes: NDArray[np.uint16], meaning: Meaning, stem: str) -> dict[str, Any]:
    bands, rows, cols = codes.shape
    names = list(meta.get("polarisations") or meaning.polarisations)
    if len(names) != bands or not all(isinstance(name, str) for name in names):
        raise BadTar(
            f"{bands} bands with the names {names}: give `polarisations` in the JSON, or --polarisations VV,VH"
        )
    valid = codes != NO_DATA
    levels = meaning.scale.decode(codes)
    means = [round(float(level[ok].mean()), 3) if ok.any() else 0.0 for level, ok in zip(levels, valid, strict=True)]
    footprint = meta.get("footprint")
    window = [int(value) for value in meta.get("window") or (0, 0, rows, cols)]
    corners = None if footprint is None else [float(x) for corner in footprint for x in corner]
    if len(window) != 4 or (corners is not None and (len(corners) != 8 or not np.isfinite(corners).all())):
        raise BadTar("window: expected 4 numbers; footprint: expected 4 corners (lon, lat)")
    return {
        "scene": str(meta.get("scene") or stem),
        "sensor": str(meta.get("sensor") or meaning.sensor),
        "polarisations": names,
        **{"bands": bands, "rows": rows, "cols": cols},
        **dict(zip(("window_row", "window_col", "window_rows", "window_cols"), window, strict=True)),
        "valid_share": float(meta.get("valid_share", round(float(valid.mean()), 6))),
        "mean_db": [float(value) for value in meta.get("mean_db") or means],
        "time": meta.get("time"),
        "footprint": corners,
        **{name: meta.get(name) for name in OPTIONAL},
    }


def place_of(data: bytes, sample: Sample, codec: str) -> dict[str, Any]:
    """Give the index columns that say where the members lie, with their CRC32C."""
    record: dict[str, Any] = {"label_offset": -1, "label_length": 0, "label_crc32c": 0}
    for suffix, prefix in ((codec, ""), ("label.npy", "label_"), ("json", "meta_")):
        if suffix in sample.members:
            _, offset, length = sample.members[suffix]
            crc = google_crc32c.value(data[offset : offset + length])
            record |= {f"{prefix}offset": offset, f"{prefix}length": length, f"{prefix}crc32c": crc}
    return record


def packed(
    data: bytes, samples: Sequence[Sample], tiles: Sequence[Mapping[str, Any]], codec: str
) -> tuple[bytes, list[Sample]]:
    """Give a tar file of the same payloads in the order pixels, label, JSON, and where they lie in it."""
    parts, position, placed = [], 0, []
    for sample, tile in zip(samples, tiles, strict=True):
        again = Sample(sample.key)
        for suffix, payload in _payloads(data, sample, tile, codec):
            name = f"{sample.key}.{suffix}"
            parts += [tar_header(name, len(payload)), payload, bytes(padding(len(payload)))]
            again.members[suffix] = (name, position + BLOCK, len(payload))
            position += BLOCK + len(payload) + padding(len(payload))
        placed.append(again)
    return b"".join([*parts, bytes(2 * BLOCK)]), placed


def _payloads(data: bytes, sample: Sample, tile: Mapping[str, Any], codec: str) -> Iterator[tuple[str, bytes]]:
    for suffix in (codec, "label.npy", "json"):
        if suffix in sample.members and suffix != "json":
            _, offset, length = sample.members[suffix]
            yield suffix, data[offset : offset + length]
    known = dict(json_object(data[slice(*_span(sample, "json"))])) if "json" in sample.members else {}
    yield "json", canonical_json(_meta(tile) | known | {"key": sample.key})


def _span(sample: Sample, suffix: str) -> tuple[int, int]:
    _, offset, length = sample.members[suffix]
    return offset, offset + length


def _meta(tile: Mapping[str, Any]) -> dict[str, Any]:
    """Give the JSON of a tile that had none, from its index columns."""
    flat = tile["footprint"]
    return {
        **{name: tile[name] for name in ("scene", "sensor", "polarisations", "valid_share", "mean_db", "time")},
        "window": [tile[f"window_{name}"] for name in ("row", "col", "rows", "cols")],
        "footprint": None if flat is None else [flat[k : k + 2] for k in range(0, 8, 2)],
        "shape": [tile["bands"], tile["rows"], tile["cols"]],
        "dtype": "<u2",
    }
