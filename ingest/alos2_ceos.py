"""ALOS-2 PALSAR-2 standard products in CEOS format: levels 1.1 (complex, slant range), 1.5, 2.1 and 3.1 (on a map)."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ingest.alos2_files import Product, fingerprint
from ingest.alos2_leader import LEVELS, SLANT_RANGE, Leader, iso, promised_images, read_leader, read_summary, start_of
from ingest.alos2_map import map_place
from ingest.alos2_scene import Alos2Scene, AngleGrid, Floats, convert, ground_points, relative
from ingest.alos2_slant import slant_geometry
from ingest.ceos import AMPLITUDE, COMPLEX, ImageFile
from ingest.mapgrid import ground_spacing_m
from ingest.recipe import Pixels, Quantity
from ingest.scene import SceneInfo, SceneRejected, Window

_COMPLEX_DB = -32.0
_NATIVE: Quantity = "sigma0"


@dataclass(frozen=True, slots=True)
class _Pixels:
    """Images of one scene and how their numbers become power."""

    images: list[ImageFile]
    gain: np.float32
    quantity: Quantity
    angles: AngleGrid | None

    def read(self, window: Window) -> NDArray[np.float32]:
        """Read linear power, NaN where a number is 0 or not finite; (bands, rows, cols) float32.

        Sigma0 is DN^2 10^(CF/10), or (I^2 + Q^2) 10^((CF - 32)/10) for complex pixels: JAXA EORC, Calibration Result
        of ALOS-2/PALSAR-2 JAXA Standard Products, eq. 1 and 2.
        """
        out = np.empty((len(self.images), window.rows, window.cols), np.float32)
        for band, image in zip(out, self.images, strict=True):
            for lines, numbers in image.blocks(window):
                _squares(numbers, band[lines])
        with np.errstate(over="ignore"):
            out *= self.gain
        out[~np.isfinite(out)] = np.nan
        convert(out, self.quantity, self.angles, window)
        return out


def _squares(numbers: NDArray[np.generic], out: NDArray[np.float32]) -> None:
    """Write DN^2, or I^2 + Q^2, in float32: the square of 65535 does not fit the product's own integers."""
    with np.errstate(over="ignore", invalid="ignore"):
        values = numbers.astype(np.float32)
        values *= values
        out[...] = values if values.ndim == 2 else values[..., 0] + values[..., 1]
    out[out == 0] = np.nan


@dataclass(frozen=True, slots=True)
class _Geometry:
    """Where an image lies, with what the description of a scene needs of it."""

    locate: Callable[[Floats, Floats], Floats]
    info: Callable[[SceneInfo], SceneInfo]


def open_ceos(folder: Path, product: Product, pixels: Pixels) -> Alos2Scene:
    """Open a CEOS product. Power is sigma0, or beta0 or gamma0 made from it with angles of the ellipsoid.

    Raises SceneRejected for what is not complete, contradicts itself, or cannot give the wanted quantity.
    """
    _check_files(folder, product)
    leader = read_leader(folder / product.files["LED"], product.level)
    with ExitStack() as stack:
        images = []
        for name in (product.files[pol] for pol in product.polarisations):
            images.append(ImageFile(folder / name))
            stack.callback(images[-1].close)
        shape = _common_shape(folder, product, images)
        geometry = _geometry(product, leader, images[0], shape)
        angles = _angles(leader, geometry, shape)
        used = relative(pixels.quantity, _NATIVE, angles, product.name)
        gain = np.float32(10.0 ** ((leader.calibration_db + (_COMPLEX_DB if _is_complex(product) else 0.0)) / 10.0))
        info = geometry.info(_scene_info(folder, product, leader, shape, pixels.quantity, angles))
        reader = _Pixels(images, gain, pixels.quantity, used)
        scene = Alos2Scene(info, reader.read, geometry.locate, angles, stack.pop_all())
    return scene


def _is_complex(product: Product) -> bool:
    return product.level == SLANT_RANGE


def _check_files(folder: Path, product: Product) -> None:
    if product.level not in LEVELS:
        raise SceneRejected(
            f"{folder} holds {product.name} of level {product.level}, which is not an image; fetch it as level 1.5"
        )
    if "LED" not in product.files:
        raise SceneRejected(
            f"{folder / f'LED-{product.base}'} is missing: without its leader a product has no calibration"
        )
    if not product.polarisations:
        raise SceneRejected(f"{folder} holds no IMG-<polarisation>-{product.base}: the product has no pixels")


def _common_shape(folder: Path, product: Product, images: list[ImageFile]) -> tuple[int, int]:
    shapes = {(image.layout.lines, image.layout.pixels) for image in images}
    if len(shapes) > 1:
        raise SceneRejected(f"{folder} has images of different shapes: {sorted(shapes)}")
    expected = COMPLEX if _is_complex(product) else AMPLITUDE
    for image in images:
        if image.layout.sample != expected:
            raise SceneRejected(
                f"{image.path} has pixels of {image.layout.sample.bytes} bytes, expected {expected.bytes} at level "
                f"{product.level}: its name and its content do not belong together"
            )
    return shapes.pop()


def _geometry(product: Product, leader: Leader, image: ImageFile, shape: tuple[int, int]) -> _Geometry:
    return _slant(product, leader, image, shape) if _is_complex(product) else _mapped(leader, shape)


def _mapped(leader: Leader, shape: tuple[int, int]) -> _Geometry:
    if leader.map_fields is None:
        raise SceneRejected(f"{leader.name} has no map projection record (type 18-20): the product is not complete")
    place = map_place(leader.map_fields, shape)

    def described(info: SceneInfo) -> SceneInfo:
        ground = ground_points(place, shape)
        return replace(info, spacing_m=place.spacing_m, footprint=place.footprint, grid=place.grid, ground=ground)

    return _Geometry(place.locate, described)


def _slant(product: Product, leader: Leader, image: ImageFile, shape: tuple[int, int]) -> _Geometry:
    if leader.orbit is None or leader.range_spacing_m is None:
        raise SceneRejected(
            f"{leader.name} has no orbit in the Earth-fixed frame or no moment of the scene's centre: a slant range "
            "image cannot be placed without; fetch the product as level 1.5"
        )
    found = slant_geometry(image, leader.orbit, leader.range_spacing_m, right=product.side == "R")

    def described(info: SceneInfo) -> SceneInfo:
        return replace(
            info,
            spacing_m=ground_spacing_m(found.grid.locate, shape),
            footprint=found.grid.footprint(),
            ground=found.grid.points(),
            time=iso(found.start),
            warnings=tuple(w for w in info.warnings if not w.startswith("time is ")),
        )

    return _Geometry(found.grid.locate, described)


def _angles(leader: Leader, geometry: _Geometry, shape: tuple[int, int]) -> AngleGrid | None:
    if (orbit := leader.orbit) is None:
        return None
    return AngleGrid.over(shape, lambda rows, cols: orbit.incidence_deg(*geometry.locate(rows, cols).T))


def _scene_info(
    folder: Path, product: Product, leader: Leader, shape: tuple[int, int], quantity: Quantity, angles: AngleGrid | None
) -> SceneInfo:
    time, warnings = _time(folder, product, leader)
    if (missing := _missing_images(folder, product)) > 0:
        warnings.append(f"the volume directory lists {missing} more image file(s) than the product has")
    if angles is None:
        warnings.append("incidence angles are not known: the leader has no orbit in the Earth-fixed frame")
    return SceneInfo(
        id=product.name,
        sensor="alos-2",
        product=f"L{product.level}",
        mode=product.mode,
        polarisations=product.polarisations,
        shape=shape,
        spacing_m=None,
        looks=leader.looks,
        time=time,
        orbit=product.orbit,
        fingerprint=fingerprint(_all_files(folder, product)),
        footprint=None,
        warnings=tuple(warnings),
        quantity=quantity,
        platform="ALOS2",
        processing=leader.processing or None,
        acquisition="-".join(filter(None, (product.scene, product.mode, product.scan))),
    )


def _all_files(folder: Path, product: Product) -> list[Path]:
    names = [product.files[role] for role in ("LED", *product.polarisations, "VOL", "TRL") if role in product.files]
    paths = [folder / name for name in (*names, "summary.txt")]
    return [path for path in paths if path.is_file()]


def _missing_images(folder: Path, product: Product) -> int:
    """Count the images that the volume directory names and the folder lacks; of one scan nothing can be said."""
    if "VOL" not in product.files or product.scan is not None:
        return 0
    return promised_images(folder / product.files["VOL"]) - len(product.polarisations)


def _time(folder: Path, product: Product, leader: Leader) -> tuple[str | None, list[str]]:
    """Give the start of sensing from summary.txt, or else the time of the scene's centre with a warning."""
    if time := start_of(read_summary(folder / "summary.txt", product.base)):
        return time, []
    if leader.centre_time is not None:
        return iso(leader.centre_time), ["time is that of the scene's centre: summary.txt with its start is missing"]
    return None, ["the product states no time that can be read"]
