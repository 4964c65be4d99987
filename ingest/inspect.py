"""What a product is and what was read of it, for a person and for a program."""

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from infra.errors import UsageError
from ingest.catalog import CHIPS_FILE
from ingest.chip_set import chip_folder, read_chip_folder
from ingest.chips import open_chip
from ingest.href import place_of, split_part
from ingest.open import Sensor, open_scene, parts_of, sensor_of
from ingest.quicklook import Glance, glance
from ingest.recipe import Pixels
from ingest.scene import Scene, SceneInfo, SceneRejected

_ANGLES = 9


@dataclass(frozen=True, slots=True)
class Inspection:
    """A scene's metadata and a glance at its pixels.

    ``parts`` are the scenes of the same product or chip set, as paths; ``path`` is the one that was looked at.
    ``incidence_deg`` is the least and the greatest angle, ``noise`` says what became of the thermal noise.
    """

    path: str
    parts: tuple[str, ...]
    info: SceneInfo
    noise: str
    incidence_deg: tuple[float, float] | None
    look: Glance

    def as_json(self) -> dict[str, Any]:
        """Give everything that was found as JSON values."""
        info = {name: value for name, value in asdict(self.info).items() if name != "ground"}
        bands = {name: asdict(band) for name, band in self.look.bands.items()}
        return {
            "path": self.path,
            "parts": list(self.parts),
            **info,
            "ground_points": len(self.info.ground),
            "noise": self.noise,
            "incidence_deg": self.incidence_deg,
            "bands": bands,
        }


def inspect(path: str, pixels: Pixels | None = None) -> Inspection:
    """Open a product, the first scene of one that holds several, or a chip of ``chips.yaml#STEM``, and look at it.

    Power is what a recipe's ``pixels`` say, before its speckle filter; without them sigma0, or what the product
    comes as where that is all it has. Raises SceneRejected for what cannot be used.
    """
    with ExitStack() as stack:
        chosen, parts, scene, pixels = _open_somehow(path, pixels)
        stack.enter_context(scene)
        noise = _noise(sensor_of(chosen), scene.info, pixels)
        return Inspection(chosen, parts, scene.info, noise, _incidence(scene), glance(scene))


def lines_of(found: Inspection) -> Iterator[str]:
    """Give the inspection as lines of text that fit a terminal of 80 columns where names do."""
    info = found.info
    yield info.id
    for name, value in _facts(found):
        yield f"  {name:12} {value}"
    wide = max(12, *map(len, found.look.bands))
    yield f"  {'band':{wide}} {'no data':>8} {'negative':>9} {'p02 dB':>8} {'median dB':>10} {'p98 dB':>8}"
    for name, band in found.look.bands.items():
        low, middle, high = ("-" if v is None else f"{v:.2f}" for v in (band.p02_db, band.median_db, band.p98_db))
        shares = f"{band.no_data_share:>8.1%} {band.negative_share:>9.1%}"
        yield f"  {name:{wide}} {shares} {low:>8} {middle:>10} {high:>8}"
    for warning in info.warnings:
        yield f"  warning: {warning}"


def _facts(found: Inspection) -> Iterator[tuple[str, str]]:
    info = found.info
    yield "sensor", f"{info.sensor}{f' ({info.platform})' if info.platform else ''}"
    yield "product", " ".join(word for word in (info.product, info.mode, "+".join(info.polarisations)) if word)
    if info.processing:
        yield "processor", info.processing
    yield "time", ", ".join(word for word in (info.time, info.orbit) if word) or "unknown"
    at = f" at {info.spacing_m[0]:.4g} x {info.spacing_m[1]:.4g} m" if info.spacing_m else ""
    yield "pixels", f"{info.shape[0]:,} lines x {info.shape[1]:,}{at}, {info.looks:g} looks"
    yield "power", f"{info.quantity}; {found.noise}"
    yield "place", _place(info)
    if found.incidence_deg:
        yield "incidence", f"{found.incidence_deg[0]:.2f} to {found.incidence_deg[1]:.2f} degrees"
    if info.acquisition:
        yield "acquisition", info.acquisition
    yield "fingerprint", info.fingerprint
    if len(found.parts) > 1:
        names = [split_part(part)[1] or part for part in found.parts]
        shown = " ".join(f"#{name}" for name in names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
        yield "scenes", f"{len(names)}: {shown}; this is #{split_part(found.path)[1]}"


def _place(info: SceneInfo) -> str:
    by = f"EPSG:{info.grid.epsg}" if info.grid else f"{len(info.ground):,} ground points" if info.ground else "unknown"
    if info.footprint is None:
        return by
    lon, lat = np.array(info.footprint).T
    west, east = ((edge + 180) % 360 - 180 for edge in (lon.min(), lon.max()))
    return f"{by}; {west:.3f} to {east:.3f} E, {lat.min():.3f} to {lat.max():.3f} N"


def _open_somehow(path: str, pixels: Pixels | None) -> tuple[str, tuple[str, ...], Scene, Pixels]:
    if pixels is not None:
        return *_open(path, pixels), pixels
    plain = Pixels()
    try:
        return *_open(path, plain), plain
    except SceneRejected:
        if sensor_of(path) != "alos-2":
            raise
        flattened = Pixels(quantity="gamma0-terrain")  # as mosaics and level 2.2 come
        with suppress(SceneRejected):
            return *_open(path, flattened), flattened
        raise


def _open(path: str, pixels: Pixels) -> tuple[str, tuple[str, ...], Scene]:
    whole, part = split_part(path)
    if place_of(whole) == "local" and sensor_of(path) is None:
        place = Path(whole)
        place = place / CHIPS_FILE if (place / CHIPS_FILE).is_file() else place
        if place.suffix in (".yaml", ".yml"):
            return _open_chip(place, part)
    parts = parts_of(path)
    return parts[0], parts_of(whole) if part else parts, open_scene(parts[0], pixels)


def _open_chip(listing: Path, wanted: str | None) -> tuple[str, tuple[str, ...], Scene]:
    spec, folder = read_chip_folder(listing)
    chips = chip_folder(folder, spec)
    if not chips:
        raise UsageError(f"{listing}: no file in {folder} matches what it describes")
    stem = len(spec.name) + 1 if spec.name else 0
    by_name = {chip.id[stem:]: chip for chip in chips}
    name = wanted if wanted is not None else next(iter(by_name))
    if name not in by_name:
        raise UsageError(f"{listing} has no chip {name!r}; its {len(chips)} chips begin with {next(iter(by_name))!r}")
    return f"{listing}#{name}", tuple(f"{listing}#{one}" for one in by_name), open_chip(by_name[name])


def _noise(sensor: Sensor | None, info: SceneInfo, pixels: Pixels) -> str:
    if sensor != "sentinel-1":  # chips may say that they are, but nothing is removed from them
        return "noise as delivered"
    if not pixels.denoise:
        return "thermal noise kept in, as the recipe says"
    if any("not denoised" in warning for warning in info.warnings):
        return "thermal noise not removed in all bands, see the warnings"
    return "thermal noise removed"


def _incidence(scene: Scene) -> tuple[float, float] | None:
    rows, cols = (np.linspace(0, size - 1, _ANGLES) for size in scene.info.shape)
    at = np.meshgrid(rows, cols, indexing="ij")
    angles = scene.incidence_deg(at[0].ravel(), at[1].ravel())
    if angles is None or np.isnan(angles).all():
        return None
    return round(float(np.nanmin(angles)), 3), round(float(np.nanmax(angles)), 3)
