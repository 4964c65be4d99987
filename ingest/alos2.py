"""ALOS-2 PALSAR-2 level 1.5 products in CEOS format: a folder of files becomes a scene of calibrated power."""

import hashlib
import math
import re
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ingest.ceos import Fields, ImageFile, read_records
from ingest.mapgrid import MapPlace
from ingest.recipe import Pixels
from ingest.scene import SceneInfo, SceneRejected, Window

LEVEL = "1.5"
_PIXELS = Pixels()

_ORDER = ("HH", "HV", "VH", "VV")
_SUMMARY, _MAP, _RADIOMETRY, _FILE_POINTER = (18, 10), (18, 20), (18, 50), (219, 192)

# Scene, mode, look side, level, geocoded or georeferenced, projection, direction of flight.
_NAME = re.compile(
    r"(?:(?P<file>VOL|LED|TRL)|IMG-(?P<pol>[HV]{2}))-"
    r"(?P<product>(?P<scene>ALOS2\d{9}-\d{6})-(?P<mode>[A-Z]{3})[LR](?P<level>\d\.\d)[GR_][A-Z_](?P<flight>[AD])(?:-[FB]\d)?)"
)
_CEOS_NAME = re.compile(r"(VOL|LED|IMG)-\S+")
_SUMMARY_LINE = re.compile(r'(\w+)="([^"]*)"')
_WHOLE_FILE = 1 << 20
_FILE_ENDS = 1 << 16


@dataclass(frozen=True, slots=True)
class _Files:
    """The files of one product."""

    product: str
    mode: str
    level: str
    flight: str
    leader: Path
    images: dict[str, Path]
    volume: Path | None
    others: tuple[Path, ...]

    def all(self) -> list[Path]:
        volume = [self.volume] if self.volume else []
        return [self.leader, *self.images.values(), *volume, *self.others]


@dataclass(frozen=True, slots=True)
class _Leader:
    """What the leader file says. ``calibration_db`` is added to 10 log10(DN^2) to give sigma0 in dB."""

    calibration_db: float
    looks: float
    centre_time: str
    map_fields: Fields


class Alos2Scene:
    """An open level 1.5 product; see :class:`ingest.scene.Scene`. Reading is safe from several threads."""

    def __init__(self, info: SceneInfo, place: MapPlace, calibration_db: float, images: list[ImageFile]) -> None:
        self._info = info
        self._place = place
        self._gain = np.float32(10.0 ** (calibration_db / 10.0))
        self._images = images

    @property
    def info(self) -> SceneInfo:
        """What is known without reading pixels."""
        return self._info

    def power(self, window: Window) -> NDArray[np.float32]:
        """Read sigma0 in linear power, DN^2 10^(CF/10); (bands, rows, cols) float32, NaN where DN is 0.

        JAXA EORC, Calibration Result of ALOS-2/PALSAR-2 JAXA Standard Products, eq. 1.
        """
        rows, cols = self._info.shape
        if min(window) < 0 or window.row + window.rows > rows or window.col + window.cols > cols:
            raise ValueError(f"{window} is not within the {rows} x {cols} pixels of {self._info.id}")
        out = np.empty((len(self._images), window.rows, window.cols), np.float32)
        for band, image in zip(out, self._images, strict=True):
            for lines, numbers in image.blocks(window):
                amplitude = numbers.astype(np.float32)
                # The square of 65535 does not fit the product's own integers.
                band[lines] = np.where(numbers == 0, np.float32(np.nan), amplitude * amplitude * self._gain)
        return out

    def label(self, window: Window) -> None:
        """Give None: a product has no labels."""
        return None

    def locate(self, rows: NDArray[np.float64], cols: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give (n, 2) longitude and latitude in degrees of pixel centres."""
        return self._place.locate(rows, cols)

    def incidence_deg(self, rows: NDArray[np.float64], cols: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Give None: incidence angles are not read yet."""
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for image in self._images:
            image.close()


def open_alos2(path: str, pixels: Pixels = _PIXELS) -> Alos2Scene:
    """Open a level 1.5 product from its folder, or from its VOL file where a folder holds several.

    Power is sigma0. Raises SceneRejected for what is not a complete ALOS-2 level 1.5 CEOS product on a UTM map.
    """
    files = _find(Path(path))
    leader = _read_leader(files)
    with ExitStack() as stack:
        images = []
        for image_path in files.images.values():
            images.append(ImageFile(image_path))
            stack.callback(images[-1].close)
        shape = _common_shape(files, images)
        place = MapPlace(*_map_grid(leader.map_fields, shape), shape, str(files.leader))
        _check_place(leader.map_fields, place)
        scene = Alos2Scene(_scene_info(files, leader, place, shape), place, leader.calibration_db, images)
        stack.pop_all()
    return scene


def _find(path: Path) -> _Files:
    """Find a product's files by name. Other files in the folder do not matter."""
    folder = path if path.is_dir() else path.parent
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise SceneRejected(f"{folder} cannot be listed: {error.strerror}") from error
    found = [match for name in names if (match := _NAME.fullmatch(name))]
    products = {match["product"] for match in found}
    if not path.is_dir():
        wanted = _NAME.fullmatch(path.name)
        products &= {wanted["product"]} if wanted and wanted["file"] == "VOL" else set()
    if len(products) != 1:
        raise SceneRejected(_not_one(path, names, products))
    return _files(folder, [match for match in found if match["product"] in products])


def _not_one(path: Path, names: list[str], products: set[str]) -> str:
    """Say why a path does not lead to one product."""
    if products:
        return f"{path} holds {len(products)} products ({', '.join(sorted(products))}): name the VOL file of one"
    strange = [name for name in names if _CEOS_NAME.fullmatch(name)]
    if path.is_dir() and strange:
        return f"{path} holds {strange[0]}, which is not named like a file of an ALOS-2 product (VOL-ALOS2...)"
    return f"{path} is not an ALOS-2 CEOS product: expected a folder with VOL-, LED- and IMG-ALOS2... files, or its VOL"


def _files(folder: Path, found: list[re.Match[str]]) -> _Files:
    product = found[0]["product"]
    paths = {match["file"] or match["pol"]: folder / match[0] for match in found}
    images = {pol: paths[pol] for pol in _ORDER if pol in paths}
    if found[0]["level"] != LEVEL:
        raise SceneRejected(
            f"{folder} holds {product} of level {found[0]['level']}, which is not read yet; fetch it as level {LEVEL}"
        )
    if "LED" not in paths:
        raise SceneRejected(f"{folder / f'LED-{product}'} is missing: without its leader a product has no calibration")
    if not images:
        raise SceneRejected(f"{folder} holds no IMG-<polarisation>-{product}: the product has no pixels")
    others = [folder / name for name in (f"TRL-{product}", "summary.txt") if (folder / name).is_file()]
    return _Files(
        product=product,
        mode=found[0]["mode"],
        level=found[0]["level"],
        flight=found[0]["flight"],
        leader=paths["LED"],
        images=images,
        volume=paths.get("VOL"),
        others=tuple(others),
    )


def _read_leader(files: _Files) -> _Leader:
    records = dict(read_records(files.leader, frozenset((_SUMMARY, _MAP, _RADIOMETRY))))
    for kind, what in ((_SUMMARY, "data set summary"), (_RADIOMETRY, "radiometric"), (_MAP, "map projection")):
        if kind not in records:
            raise SceneRejected(
                f"{files.leader} has no {what} record (type {kind[0]}-{kind[1]}): the product is not complete"
            )
    summary, radiometry = records[_SUMMARY], records[_RADIOMETRY]
    if (mission := summary.text(396, 412)) != "ALOS2":
        raise SceneRejected(f"{files.leader} is of the mission {mission!r}, expected 'ALOS2'")
    if (level := summary.text(1094, 1110)) != LEVEL:
        raise SceneRejected(f"{files.leader} is of level {level!r}, which is not read yet; fetch it as level {LEVEL}")
    calibration_db = radiometry.number(20, 36, "the calibration factor")
    if not -200.0 < calibration_db < 100.0:
        raise SceneRejected(f"{radiometry.name} gives a calibration factor of {calibration_db} dB, expected about -83")
    looks = summary.number(1174, 1190, "looks in azimuth") * summary.number(1190, 1206, "looks in range")
    return _Leader(calibration_db, looks if looks > 0 else 1.0, summary.text(68, 85), records[_MAP])


def _common_shape(files: _Files, images: list[ImageFile]) -> tuple[int, int]:
    shapes = {(image.layout.lines, image.layout.pixels) for image in images}
    if len(shapes) > 1:
        raise SceneRejected(f"{files.leader.parent} has images of different shapes: {sorted(shapes)}")
    return shapes.pop()


def _map_grid(fields: Fields, shape: tuple[int, int]) -> tuple[int, tuple[float, ...]]:
    """Give EPSG code and transform from the map projection record, whose corners are pixel centres."""
    projection = fields.text(412, 444)
    if projection != "UTM-PROJECTION":
        raise SceneRejected(f"{fields.name} is on a map of {projection!r}; only UTM-PROJECTION is read so far")
    described = (fields.integer(76, 92, "the number of lines"), fields.integer(60, 76, "the number of pixels"))
    if described != shape or min(shape) < 2:
        raise SceneRejected(
            f"{fields.name} describes {described} lines and pixels, the images have {shape}: "
            "they do not belong together"
        )
    zone = fields.integer(476, 480, "the UTM zone")
    if not 1 <= zone <= 60:
        raise SceneRejected(f"{fields.name} gives UTM zone {zone}, expected 1 to 60")
    south = fields.number(496, 512, "the false northing") > 0
    return (32700 if south else 32600) + zone, _transform(fields, shape)


def _transform(fields: Fields, shape: tuple[int, int]) -> tuple[float, ...]:
    """Give the affine numbers from the corners (upper left, upper right, lower right, lower left)."""
    values_km = [fields.number(944 + 16 * i, 960 + 16 * i, "a corner in km") for i in range(8)]
    # The text has tenths of millimetres; rounding takes away what the division by 1000 adds.
    corners_m = np.round(np.reshape(values_km, (4, 2))[:, ::-1] * 1000.0, 4)
    upper_left, upper_right, lower_right, lower_left = corners_m
    across = np.round((upper_right - upper_left) / (shape[1] - 1), 9)
    down = np.round((lower_left - upper_left) / (shape[0] - 1), 9)
    spacing_m = fields.number(108, 124, "the pixel spacing")
    error_m = np.abs(upper_right + lower_left - upper_left - lower_right).max()
    if not (math.isclose(np.hypot(*across), spacing_m, rel_tol=0.01) and error_m < spacing_m):
        raise SceneRejected(
            f"{fields.name} contradicts itself: corners {corners_m.tolist()} m for {shape} pixels of {spacing_m} m"
        )
    origin = upper_left - (across + down) / 2
    columns = np.stack([across, down, origin], axis=1)
    return tuple(float(value) for value in columns.ravel())


def _check_place(fields: Fields, place: MapPlace) -> None:
    """Refuse a map whose zone or hemisphere puts the first pixel elsewhere than the record's own degrees."""
    lat, lon = (fields.number(at, at + 16, "a corner in degrees") for at in (1072, 1088))
    found_lon, found_lat = place.locate(np.zeros(1), np.zeros(1))[0]
    away = max(abs(found_lat - lat), abs((found_lon - lon + 180.0) % 360.0 - 180.0) * math.cos(math.radians(lat)))
    if not away < 1e-3:
        raise SceneRejected(
            f"{fields.name} contradicts itself: its UTM corner lies at {found_lon:.5f}, {found_lat:.5f} degrees, "
            f"not at {lon:.5f}, {lat:.5f}"
        )


def _scene_info(files: _Files, leader: _Leader, place: MapPlace, shape: tuple[int, int]) -> SceneInfo:
    time, warnings = _time(files, leader)
    if (missing := _promised_images(files) - len(files.images)) > 0:
        warnings.append(f"the volume directory lists {missing} more image file(s) than the product has")
    return SceneInfo(
        id=files.product,
        sensor="alos-2",
        product=f"L{files.level}",
        mode=files.mode,
        polarisations=tuple(files.images),
        shape=shape,
        spacing_m=place.spacing_m,
        looks=leader.looks,
        time=time,
        orbit={"A": "ascending", "D": "descending"}[files.flight],
        fingerprint=_fingerprint(files.all()),
        footprint=place.footprint,
        grid=place.grid,
        warnings=tuple(warnings),
    )


def _promised_images(files: _Files) -> int:
    """Count the images that the volume directory names; without one, those that are there."""
    if files.volume is None:
        return len(files.images)
    pointers = read_records(files.volume, frozenset((_FILE_POINTER,)))
    return sum(fields.text(64, 68) == "IMOP" for _, fields in pointers)


def _time(files: _Files, leader: _Leader) -> tuple[str | None, list[str]]:
    """Give the start of sensing from summary.txt, or else the time of the scene's centre with a warning."""
    start = _summary(files).get("Img_SceneStartDateTime", "")
    if time := _utc(start, "%Y%m%d %H:%M:%S.%f"):
        return time, []
    if time := _utc(leader.centre_time + "000", "%Y%m%d%H%M%S%f"):
        return time, ["time is that of the scene's centre: summary.txt with its start is missing"]
    return None, ["the product states no time that can be read"]


def _utc(text: str, layout: str) -> str | None:
    try:
        return datetime.strptime(text, layout).isoformat(timespec="microseconds") + "Z"
    except ValueError:
        return None


def _summary(files: _Files) -> dict[str, str]:
    """Read summary.txt where it is of this product."""
    path = files.leader.with_name("summary.txt")
    if path not in files.others or path.stat().st_size > _WHOLE_FILE:
        return {}
    values = dict(_SUMMARY_LINE.findall(path.read_text("ascii", errors="replace")))
    named = f"{values.get('Scs_SceneID')}-{values.get('Pds_ProductID')}"
    return values if named == files.product else {}


def _fingerprint(paths: list[Path]) -> str:
    """Name the files by their names, sizes and content; of large ones by their ends, for they are half a gigabyte."""
    total = hashlib.sha256()
    for path in sorted(paths, key=lambda p: p.name):
        with path.open("rb") as file:
            size = file.seek(0, 2)
            total.update(f"{path.name}\0{size}\0".encode())
            file.seek(0)
            if size < _WHOLE_FILE:
                total.update(file.read(size))
            else:
                total.update(file.read(_FILE_ENDS))
                file.seek(size - _FILE_ENDS)
                total.update(file.read(_FILE_ENDS))
    return total.hexdigest()
