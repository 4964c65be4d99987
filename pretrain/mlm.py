"""An encoder as a STAC Item of the Machine Learning Model extension (version 1.5.2), for catalogues of models."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import torch

from infra.record import sha256
from pretrain.encoder import STRIDES, ResNet
from pretrain.facts import Facts

MLM = "https://stac-extensions.github.io/mlm/v1.5.2/schema.json"
FILE = "https://stac-extensions.github.io/file/v2.1.0/schema.json"


def mlm_item(encoder: ResNet, facts: Facts, weights: Mapping[str, bytes]) -> dict[str, Any]:
    """Describe an encoder: input with bands, units and scaling, the four feature maps, digests, and its files.

    Geometry and times are those of the corpus; without it the geometry is null and the time that of the run.
    """
    place, times = _extent(facts)
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [MLM, FILE],
        "id": f"{facts.name}-{facts.card.run_digest[:12] or sha256(next(iter(weights.values())))[:12]}",
        **place,
        "properties": {
            **times,
            "description": f"{facts.architecture} encoder of SAR backscatter, pre-trained by {facts.card.method}.",
            "license": "other" if facts.licence == "unknown" else facts.licence,
            "bands": [{"name": band, "description": "backscatter", "unit": "dB"} for band in facts.bands],
            "mlm:name": facts.name,
            "mlm:architecture": f"ResNet-{encoder.depth}",
            "mlm:framework": "PyTorch",
            "mlm:framework_version": torch.__version__.partition("+")[0],
            "mlm:tasks": ["similarity-search"],
            "mlm:total_parameters": sum(p.numel() for p in encoder.parameters()),
            "mlm:memory_size": sum(t.numel() * t.element_size() for t in encoder.state_dict().values()),
            "mlm:pretrained": True,
            "mlm:pretrained_source": f"sarsense manifest {facts.card.manifest_digest or 'unknown'}",
            "mlm:input": [_input(facts)],
            "mlm:output": [_output(number, encoder) for number in range(4)],
            "mlm:hyperparameters": {
                "method": facts.card.method,
                "run_digest": facts.card.run_digest,
                "pixels_digest": facts.card.pixels_digest,
                "manifest_digest": facts.card.manifest_digest,
                "steps": facts.card.step,
                **({"dials": dict(facts.dials)} if facts.dials else {}),
            },
        },
        "links": [],
        "assets": {
            ("model" if file.endswith(".safetensors") else "state_dict"): {
                "href": f"./{file}",
                "type": "application/octet-stream",
                "title": "Weights",
                "roles": ["mlm:model", "mlm:weights"],
                "mlm:artifact_type": "torch.save" if file.endswith(".pth") else "safetensors.torch.save_file",
                "file:size": len(content),
                "file:checksum": f"1220{sha256(content)}",  # multihash: SHA-256, 32 bytes
            }
            for file, content in weights.items()
        },
    }


def _input(facts: Facts) -> dict[str, Any]:
    spec = facts.card.input
    return {
        "name": "backscatter in decibels",
        "bands": facts.bands,
        "input": {
            "shape": [-1, facts.card.bands, -1, -1],
            "dim_order": ["batch", "bands", "height", "width"],
            "data_type": "float32",
        },
        "description": f"Learned on {facts.size_px} px; sides of any multiple of {STRIDES[-1]} px fit."
        " Pixels without measurement are 0 after scaling.",
        "pre_processing_function": {
            "format": "numpy",
            "expression": f"numpy.clip(x, {spec.lo_db:g}, {spec.hi_db:g})",
        },
        "value_scaling": [{"type": "z-score", "mean": facts.zero_db, "stddev": facts.one_db}] * facts.card.bands,
        "resize_type": None,
    }


def _output(number: int, encoder: ResNet) -> dict[str, Any]:
    return {
        "name": f"stage{number + 1}",
        "description": f"Feature map with a cell for every {STRIDES[number]} x {STRIDES[number]} px.",
        "tasks": ["similarity-search"],
        "result": {
            "shape": [-1, encoder.channels[number], -1, -1],
            "dim_order": ["batch", "channel", "height", "width"],
            "data_type": "float32",
        },
    }


def _extent(facts: Facts) -> tuple[dict[str, Any], dict[str, Any]]:
    sources = facts.manifest.sources if facts.manifest else ()
    corners = [corner for s in sources for corner in s.footprint or ()]
    place: dict[str, Any] = {"geometry": None}
    if corners:
        lons, lats = zip(*corners, strict=True)
        west, east, south, north = min(lons), max(lons), min(lats), max(lats)
        if east > 180 or west < -180 or east - west > 180:  # over the antimeridian: all longitudes
            west, east = -180.0, 180.0
        ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
        place = {"geometry": {"type": "Polygon", "coordinates": [ring]}, "bbox": [west, south, east, north]}
    times = sorted(s.time for s in sources if s.time)
    if times:
        return place, {"datetime": None, "start_datetime": times[0], "end_datetime": times[-1]}
    return place, {"datetime": facts.time or datetime.now(UTC).isoformat(timespec="seconds")}
