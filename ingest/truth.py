"""The simulated land: which class of ground lies where, and how bright each class is in each band."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pyproj import Transformer

Band = Literal["C", "L"]

UNLABELLED = 255
"""The label of a pixel that the sensor did not measure."""


@dataclass(frozen=True, slots=True)
class LandClass:
    """One class of ground: its name, its colour on a map, and why it is as bright as it is."""

    name: str
    colour: tuple[int, int, int]
    reason: str


LAND_CLASSES = (
    LandClass("water", (38, 96, 190), "smooth at both wavelengths, so the pulse leaves forward; calmer still at L"),
    LandClass("bare soil", (176, 132, 84), "rough at 5.5 cm, nearly smooth at 24 cm; no volume, so weak cross-pol"),
    LandClass("grassland", (160, 205, 96), "short blades scatter 5.5 cm waves a little; 24 cm waves see the soil"),
    LandClass("cropland", (236, 208, 72), "tall stems and leaves: volume at C, stems over soil at L"),
    LandClass("forest", (24, 110, 48), "C stops in the crown; L reaches branches and trunks, so strong cross-pol"),
    LandClass("city", (205, 52, 52), "walls and streets send the pulse straight back (double bounce)"),
    LandClass("road", (110, 110, 118), "asphalt is smooth: dark, but its roughness is felt at C"),
)
WATER, BARE_SOIL, GRASSLAND, CROPLAND, FOREST, CITY, ROAD = range(len(LAND_CLASSES))

# Mean sigma0 in dB at 30-45 degrees incidence, one row per class in the order above. Rounded values from the
# middle of the ranges that Ulaby and Dobson (Handbook of Radar Scattering Statistics for Terrain, 1989) and
# later Sentinel-1 and PALSAR statistics give. Cross polarisation is reciprocal: HV equals VH.
_SIGMA0_DB: dict[tuple[Band, str], tuple[float, ...]] = {
    ("C", "VV"): (-18.5, -12.5, -12.0, -10.0, -8.0, -3.5, -15.5),
    ("C", "HH"): (-21.0, -12.0, -12.5, -9.5, -7.8, -2.5, -16.5),
    ("C", "VH"): (-27.0, -21.0, -19.0, -16.5, -13.5, -10.5, -24.0),
    ("L", "HH"): (-22.0, -16.0, -15.0, -11.5, -7.5, -3.0, -19.0),
    ("L", "VV"): (-21.0, -15.0, -15.5, -12.5, -8.5, -4.5, -18.0),
    ("L", "HV"): (-32.0, -28.0, -24.5, -19.5, -12.5, -14.0, -30.0),
}


def mean_sigma0_db(band: Band, polarisation: str) -> tuple[float, ...]:
    """Give the mean sigma0 of every class in dB, in the order of LAND_CLASSES."""
    reciprocal = {"HV": "VH", "VH": "HV"}.get(polarisation, polarisation)
    return _SIGMA0_DB.get((band, polarisation)) or _SIGMA0_DB[band, reciprocal]


def mean_sigma0(band: Band, polarisation: str) -> NDArray[np.float32]:
    """Give the mean sigma0 of every class in linear power, (classes,) float32."""
    level_db = np.array(mean_sigma0_db(band, polarisation))
    return np.asarray(10.0 ** (level_db / 10.0), dtype=np.float32)


def legend() -> dict[str, Any]:
    """Give the classes as plain JSON data: id, name and colour of each. 255 is unlabelled by convention."""
    classes = [{"id": i, "name": c.name, "colour": list(c.colour)} for i, c in enumerate(LAND_CLASSES)]
    return {"classes": classes}


@dataclass(frozen=True, slots=True)
class Place:
    """A point on Earth (degrees, WGS 84) and the UTM zone in which the ground around it is measured."""

    lon: float
    lat: float

    @property
    def zone(self) -> int:
        """Number of the UTM zone, 1 to 60."""
        return int((self.lon + 180.0) // 6.0) % 60 + 1

    @property
    def epsg(self) -> int:
        """EPSG code of the UTM zone."""
        return (32600 if self.lat >= 0 else 32700) + self.zone

    def origin(self) -> tuple[float, float]:
        """Give easting and northing of the place in metres."""
        to_utm = Transformer.from_crs(4326, self.epsg, always_xy=True)
        easting, northing = to_utm.transform(self.lon, self.lat)
        return float(easting), float(northing)

    def lonlat(
        self, easting: NDArray[np.float64], northing: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Give longitude and latitude in degrees of UTM coordinates in metres."""
        to_degrees = Transformer.from_crs(self.epsg, 4326, always_xy=True)
        lon, lat = to_degrees.transform(easting, northing)
        return np.asarray(lon), np.asarray(lat)


@dataclass(frozen=True, slots=True)
class Ground:
    """What lies at some points: class ids (uint8) and the brightness of their field over the class mean (float32)."""

    classes: NDArray[np.uint8]
    field_gain: NDArray[np.float32]

    def sigma0(self, band: Band, polarisation: str) -> NDArray[np.float32]:
        """Give the mean sigma0 of each point in linear power, without speckle."""
        return mean_sigma0(band, polarisation)[self.classes] * self.field_gain


_Metres = NDArray[np.float32]


@dataclass(frozen=True)
class Land:
    """An endless landscape, the same for every sensor: class of ground as a function of metres east and north.

    It is a pure function of ``seed`` and position, so it may be asked for block by block and at any pixel
    spacing. ``field_spread`` lets single fields be brighter or darker than their class by up to this share
    (uniform, mean 1); with 0 the mean of every point is exactly that of the table.
    """

    seed: int
    field_spread: float = 0.0

    def at(self, east_m: _Metres, north_m: _Metres) -> Ground:
        """Tell what lies at points given in metres from the origin (arrays of one shape)."""
        east, north = np.asarray(east_m, np.float32), np.asarray(north_m, np.float32)
        field, street = self._patchwork(east, north)
        classes = _CROP_ROTATION[(field >> np.uint32(24)) % np.uint32(len(_CROP_ROTATION))]
        gain = self._gain(field)
        built = self._town(east, north)
        wet = self._lake(east, north) | self._river(east, north)
        # Later entries lie over earlier ones: a town is cleared of trees, a road crosses the river on a bridge.
        for class_id, there in (
            (FOREST, self._forest(east, north)),
            (CITY, built),
            (ROAD, built & street),
            (WATER, wet),
            (ROAD, self._highway(east, north)),
        ):
            classes = np.where(there, np.uint8(class_id), classes)
            gain = np.where(there, np.float32(1.0), gain)
        return Ground(classes.astype(np.uint8), gain.astype(np.float32))

    @cached_property
    def _angle(self) -> float:
        return float(np.random.default_rng([self.seed, 0]).uniform(0, math.pi))

    def _along(self, east: _Metres, north: _Metres, turn_rad: float) -> tuple[_Metres, _Metres]:
        """Turn the axes: metres along and across a direction."""
        cos, sin = np.float32(math.cos(self._angle + turn_rad)), np.float32(math.sin(self._angle + turn_rad))
        return east * cos + north * sin, north * cos - east * sin

    def _blobs(self, part: int, length_m: float) -> Callable[[_Metres, _Metres], _Metres]:
        """Make a smooth random surface of mean 0 and variance about 1 with hills of this length."""
        random = np.random.default_rng([self.seed, part])
        turns = random.uniform(0, 2 * math.pi, 10)
        lengths_m = length_m * np.concatenate([random.uniform(0.8, 1.5, 6), random.uniform(0.25, 0.4, 4)])
        heights = np.array([0.52] * 6 + [0.3] * 4)
        starts = random.uniform(0, 2 * math.pi, 10)

        def surface(east: _Metres, north: _Metres) -> _Metres:
            height = np.zeros(east.shape, np.float32)
            for turn, length, top, start in zip(turns, lengths_m, heights, starts, strict=True):
                kx, ky = 2 * math.pi * math.cos(turn) / length, 2 * math.pi * math.sin(turn) / length
                height += np.float32(top) * np.sin(east * np.float32(kx) + north * np.float32(ky) + np.float32(start))
            return height

        return surface

    def _hill(self, east: _Metres, north: _Metres, turn_rad: float, distance_m: float) -> _Metres:
        """Give a bump near the origin, so that even a small scene has every class."""
        u, v = self._along(east, north, turn_rad)
        away = ((u - np.float32(distance_m)) ** 2 + v**2) / np.float32(500.0**2)
        return np.asarray(np.float32(2.5) * np.exp(-away), np.float32)

    def _forest(self, east: _Metres, north: _Metres) -> NDArray[np.bool_]:
        return self._blobs(1, 1700.0)(east, north) + self._hill(east, north, 2.6, 1300.0) > 0.75

    def _town(self, east: _Metres, north: _Metres) -> NDArray[np.bool_]:
        return self._blobs(2, 3200.0)(east, north) + self._hill(east, north, 0.5, 1200.0) > 1.35

    def _lake(self, east: _Metres, north: _Metres) -> NDArray[np.bool_]:
        return self._blobs(3, 2600.0)(east, north) + self._hill(east, north, 4.7, 1500.0) > 1.7

    def _river(self, east: _Metres, north: _Metres) -> NDArray[np.bool_]:
        """Draw meanders 110 m wide, one river every 14 km."""
        u, v = self._along(east, north, 1.1)
        course = 420.0 * np.sin(u / np.float32(640.0)) + 900.0 * np.sin(u / np.float32(2900.0))
        slope = 0.66 * np.cos(u / np.float32(640.0)) + 0.31 * np.cos(u / np.float32(2900.0))
        away = np.abs(_centred(v - course + np.float32(450.0), 14_000.0))
        return np.asarray(away < np.float32(55.0) * np.sqrt(1.0 + slope**2))

    def _highway(self, east: _Metres, north: _Metres) -> NDArray[np.bool_]:
        """Draw two families of roads 28 m wide, gently curved."""
        there = np.zeros(east.shape, bool)
        for turn_rad, spacing_m in ((0.3, 3100.0), (1.75, 4300.0)):
            u, v = self._along(east, north, turn_rad)
            bend = 160.0 * np.sin(u / np.float32(1800.0))
            there |= np.abs(_centred(v + bend + np.float32(300.0), spacing_m)) < 14.0
        return there

    def _patchwork(self, east: _Metres, north: _Metres) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
        """Give a random number for each field, and where the streets between town blocks run."""
        u, v = self._along(east, north, 0.0)
        bent = v + 70.0 * np.sin(u / np.float32(1300.0))
        strip = np.floor(bent / np.float32(290.0)).astype(np.int32).astype(np.uint32)
        chance = _mix(strip ^ np.uint32(self.seed * 0x9E3779B1 & 0xFFFFFFFF))
        width_m = np.float32(220.0) + (chance & np.uint32(0xFF)).astype(np.float32) * np.float32(1.6)
        start_m = (chance >> np.uint32(8) & np.uint32(0x3FF)).astype(np.float32)
        plot = np.floor((u + start_m) / width_m).astype(np.int32).astype(np.uint32)
        street = (np.mod(u, np.float32(170.0)) < 24.0) | (np.mod(v, np.float32(130.0)) < 24.0)
        return _mix(chance + plot * np.uint32(0x85EBCA6B)), street

    def _gain(self, field: NDArray[np.uint32]) -> NDArray[np.float32]:
        chance = (field & np.uint32(0xFFFF)).astype(np.float32) / np.float32(32767.5) - np.float32(1.0)
        return np.float32(1.0) + np.float32(self.field_spread) * chance


# How often each crop is grown: a field's random number picks one of these.
_CROP_ROTATION = np.array([CROPLAND] * 3 + [GRASSLAND] * 3 + [BARE_SOIL] * 2, np.uint8)


def _centred(distance_m: _Metres, spacing_m: float) -> _Metres:
    """Give the signed distance to the nearest of many parallel lines."""
    half = np.float32(spacing_m / 2)
    return np.asarray(np.mod(distance_m + half, np.float32(spacing_m)) - half, np.float32)


def _mix(number: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Scramble integers so that neighbours become independent (a 32-bit finaliser; wraps by intent)."""
    number = (number ^ number >> np.uint32(16)) * np.uint32(0x7FEB352D)
    number = (number ^ number >> np.uint32(15)) * np.uint32(0x846CA68B)
    return number ^ number >> np.uint32(16)


POLARISATIONS = ("HH", "HV", "VH", "VV")


def speckle(seed: int, band: Band, polarisation: str, block: int, looks: float, shape: tuple[int, int]) -> _Metres:
    """Draw gamma speckle of mean 1 and variance 1/looks for one block of lines, float32.

    The draw depends on nothing but its arguments, so scenes are the same however many bands they have.
    """
    random = np.random.default_rng([seed, "CL".index(band), POLARISATIONS.index(polarisation), block])
    drawn = random.standard_gamma(looks, shape, dtype=np.float32)
    return np.asarray(drawn / np.float32(looks), np.float32)
