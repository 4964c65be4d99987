"""What a published version is, as Croissant 1.1 and GeoCroissant 1.0 JSON-LD, for search engines and loaders."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from infra.record import canonical_json, digest
from shards.manifest import Manifest, version_key

CONFORMS_TO = ("http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/geo/1.0")
_TERMS = (
    *("arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field", "fileProperty"),
    *(
        "fileObject",
        "fileSet",
        "format",
        "includes",
        "isArray",
        "isLiveDataset",
        "jsonPath",
        "key",
        "md5",
        "parentField",
    ),
    *("path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate", "separator", "source"),
    *("subField", "transform"),
)
_CONTEXT: Mapping[str, Any] = MappingProxyType(
    {
        "@language": "en",
        "@vocab": "https://schema.org/",
        "sc": "https://schema.org/",
        "cr": "http://mlcommons.org/croissant/",
        "rai": "http://mlcommons.org/croissant/RAI/",
        "geocr": "http://mlcommons.org/croissant/geo/",
        "dct": "http://purl.org/dc/terms/",
        "conformsTo": "dct:conformsTo",
        "data": {"@id": "cr:data", "@type": "@json"},
        "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
        "description": {"@container": "@language"},
        "examples": {"@id": "cr:examples", "@type": "@json"},
        "name": {"@container": "@language"},
        **{term: f"cr:{term}" for term in _TERMS},
    }
)

_FIELDS = MappingProxyType(
    {
        "key": ("sc:Text", "name of the tile, and of its members in the tar file"),
        "shard": ("sc:Integer", "number of the tile's tar file in the order of the manifest"),
        "scene": ("sc:Text", "scene that the tile was cut from"),
        "sensor": ("sc:Text", "sensor"),
        "platform": ("sc:Text", "satellite"),
        "mode": ("sc:Text", "acquisition mode"),
        "quantity": ("sc:Text", "what a pixel measures: sigma0, beta0, gamma0 or gamma0-terrain"),
        "polarisations": ("sc:Text", "polarisations in the order of the bands"),
        "bands": ("sc:Integer", "number of bands"),
        "rows": ("sc:Integer", "height in pixels"),
        "cols": ("sc:Integer", "width in pixels"),
        "offset": ("sc:Integer", "where the pixels begin in the tar file, bytes"),
        "length": ("sc:Integer", "length of the pixels' member, bytes"),
        "crc32c": ("sc:Integer", "CRC32C of the pixels' member"),
        "label_offset": ("sc:Integer", "where the label begins in the tar file, bytes; -1 without label"),
        "time": ("sc:Text", "time of acquisition, ISO 8601 UTC"),
        "orbit": ("sc:Text", "direction of the orbit"),
        "incidence_deg": ("sc:Float", "angle of incidence on the ellipsoid at the middle of the tile, degrees"),
        "valid_share": ("sc:Float", "share of pixels with a measurement"),
        "mean_db": ("sc:Float", "mean of each band, decibels"),
    }
)
_REPEATED = ("polarisations", "mean_db")
# Nominal centre of the band; PALSAR-2 also uses 1.2365 and 1.2785 GHz.
_FREQUENCY_GHZ = MappingProxyType({"sentinel-1": 5.405, "alos-2": 1.2575})
_LIGHT_MM_GHZ = 299.792458


@dataclass(frozen=True, slots=True)
class About:
    """What a manifest cannot know of a publication. ``date`` is ISO 8601, ``license`` an SPDX name or a URL."""

    name: str
    license: str
    date: str
    url: str | None = None
    creator: str | None = None
    cite: str | None = None


def croissant(about: About, splits: Mapping[str, tuple[Manifest, pa.Table]], description: str) -> bytes:
    """Describe the splits of a Hugging Face layout: files with their digests, columns of the index, bands, place, time.

    Files are named from the folder that the JSON lies in. Source: Croissant 1.1 and GeoCroissant 1.0, MLCommons.
    """
    manifests = [manifest for manifest, _ in splits.values()]
    tables = [table for _, table in splits.values()]
    bands = sorted({names for table in tables for names in _band_sets(table)})
    record: dict[str, Any] = {
        "@context": dict(_CONTEXT),
        "@type": "sc:Dataset",
        "name": re.sub(r"[^A-Za-z0-9_.-]", "-", about.name),
        "description": description,
        "conformsTo": list(CONFORMS_TO),
        "url": about.url or f"urn:sha256:{_version(manifests)}",
        "version": "1.0.0",
        "sameAs": [f"urn:sha256:{manifest.digest}" for manifest in manifests],
        "license": about.license,
        "datePublished": about.date,
        "citeAs": about.cite or f"{about.name}, version {_version(manifests)[:16]}",
        "creator": {"@type": "sc:Organization", "name": about.creator or "unknown"},
        "keywords": ["synthetic aperture radar", "SAR", *sorted({s.sensor for m in manifests for s in m.sources})],
        **_place(tables),
        **_time(manifests),
        "geocr:coordinateReferenceSystem": "EPSG:4326",
        **_resolution(manifests),
        "geocr:bandConfiguration": _bands(bands),
        "geocr:spectralBandMetadata": _wavelengths(manifests),
        "geocr:samplingStrategy": f"Windows of whole scenes by the recipe {json.dumps(manifests[0].recipe)[:2000]}",
        "distribution": [part for name, (manifest, _) in splits.items() for part in _files(name, manifest)],
        "recordSet": [_records(name, manifest) for name, (manifest, _) in splits.items()],
    }
    return (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode()


def _version(manifests: Sequence[Manifest]) -> str:
    return manifests[0].digest if len(manifests) == 1 else digest([manifest.digest for manifest in manifests])


def _files(split: str, manifest: Manifest) -> list[dict[str, Any]]:
    """Name the index files and the manifest one by one, with digests; the manifest holds those of the shards."""
    about = version_key(manifest.digest)
    size = len(canonical_json(manifest.model_dump(mode="json")))
    single = [
        _file(
            part.key, part.sha256, part.bytes, "application/x-parquet", f"Index of {split}: GeoParquet, a row a tile."
        )
        for part in manifest.index
    ]
    single.append(
        _file(about, manifest.digest, size, "application/json", f"Manifest of {split}: digests of all files.")
    )
    folders = sorted({shard.key.rpartition("/")[0] for shard in manifest.shards})
    shards = {
        "@type": "cr:FileSet",
        "@id": f"shards_{split}",
        "name": f"shards_{split}",
        "description": f"{len(manifest.shards)} tar files of {split} in WebDataset layout.",
        "encodingFormat": "application/x-tar",
        "includes": [f"{folder}/*.tar" for folder in folders],
    }
    if len(manifest.index) == 1:
        return [*single, shards]
    parts = {
        "@type": "cr:FileSet",
        "@id": f"index_{split}",
        "name": f"index_{split}",
        "description": f"All {len(manifest.index)} parts of the index of {split}.",
        "encodingFormat": "application/x-parquet",
        "includes": [part.key for part in manifest.index],
    }
    return [*single, shards, parts]


def _file(key: str, sha256: str, size: int, encoding: str, description: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": key,
        "name": key,
        "description": description,
        "contentUrl": key,
        "contentSize": f"{size} B",
        "encodingFormat": encoding,
        "sha256": sha256,
    }


def _records(split: str, manifest: Manifest) -> dict[str, Any]:
    name = f"tiles_{split}"
    whole = len(manifest.index) == 1
    source = {"fileObject": {"@id": manifest.index[0].key}} if whole else {"fileSet": {"@id": f"index_{split}"}}
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": f"The {manifest.tiles} tiles of {split}, from their index.",
        "key": {"@id": f"{name}/key"},
        "field": [_field(name, column, source) for column in _FIELDS],
    }


def _field(records: str, column: str, source: Mapping[str, Any]) -> dict[str, Any]:
    kind, meaning = _FIELDS[column]
    several = {"repeated": True} if column in _REPEATED else {}
    return {
        "@type": "cr:Field",
        "@id": f"{records}/{column}",
        "name": column,
        "description": meaning,
        "dataType": kind,
        **several,
        "source": {**source, "extract": {"column": column}},
    }


def _band_sets(table: pa.Table) -> list[tuple[str, ...]]:
    names = pc.unique(pc.binary_join(table["polarisations"].combine_chunks(), "+")).to_pylist()
    return [tuple(name.split("+")) for name in names]


def _bands(sets: Sequence[tuple[str, ...]]) -> dict[str, Any] | list[dict[str, Any]]:
    made = [
        {
            "@type": "geocr:BandConfiguration",
            "geocr:totalBands": len(names),
            "geocr:bandNameList": list(names),
        }
        for names in sets
    ]
    return made[0] if len(made) == 1 else made


def _wavelengths(manifests: Sequence[Manifest]) -> list[dict[str, Any]]:
    pairs = sorted({(s.sensor, band) for m in manifests for s in m.sources for band in s.polarisations})
    return [_spectral_band(sensor, band) for sensor, band in pairs]


def _spectral_band(sensor: str, band: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"@type": "geocr:SpectralBand", "name": f"{sensor} {band}"}
    if sensor in _FREQUENCY_GHZ:
        value = round(_LIGHT_MM_GHZ / _FREQUENCY_GHZ[sensor], 2)
        entry["geocr:centerWavelength"] = {"@type": "QuantitativeValue", "value": value, "unitText": "mm"}
    return entry


def _place(tables: Sequence[pa.Table]) -> dict[str, Any]:
    """The bounding box, south west north east in degrees (schema.org, GeoShape); nothing where no tile has a place."""
    sides = [table["bbox"].combine_chunks().flatten() for table in tables]
    low = [[pc.min(side[i]).as_py() for side in sides] for i in (1, 0)]
    high = [[pc.max(side[i]).as_py() for side in sides] for i in (3, 2)]
    if all(value is None for value in low[0]):
        return {}
    known = [f([v for v in values if v is not None]) for f, group in ((min, low), (max, high)) for values in group]
    box = " ".join(f"{value:.6g}" for value in known)
    return {"spatialCoverage": {"@type": "Place", "geo": {"@type": "GeoShape", "box": box}}}


def _time(manifests: Sequence[Manifest]) -> dict[str, Any]:
    days = sorted(s.time[:10] for m in manifests for s in m.sources if s.time)
    return {"temporalCoverage": f"{days[0]}/{days[-1]}"} if days else {}


def _resolution(manifests: Sequence[Manifest]) -> dict[str, Any]:
    """The spacing of pixels, metres: one number where all scenes agree within 1 %, else the range."""
    spacings = sorted(max(s.spacing_m) for m in manifests for s in m.sources if s.spacing_m)
    if not spacings:
        return {}
    if spacings[-1] <= 1.01 * spacings[0]:
        value: Any = {"@type": "QuantitativeValue", "value": round(spacings[0], 3), "unitText": "m"}
    else:
        value = f"{spacings[0]:.4g} m to {spacings[-1]:.4g} m"
    return {"geocr:spatialResolution": value}
