"""The leader file (LED) of a simulated ALOS-2 L1.5 product: scene, map, orbit, radiometry.

Field positions are those measured on a real FBDR1.5GUA product; only fields the simulation knows are filled.
"""

from datetime import timedelta

import numpy as np

from ingest.simulate_alos2_scene import CALIBRATION_FACTOR_DB, SPACING_M, Acquisition, MapAcquisition
from ingest.simulate_alos2_slant import SAMPLING_MHZ, SlantAcquisition
from ingest.simulate_ceos import Codes, descriptor, fixed, record, scientific
from ingest.simulate_pass import Vector

_FACILITY_BYTES = (325_000, 511_000, 3_072, 728_000, 5_000)
LONGEST_RECORD = max(_FACILITY_BYTES)


def leader_records(of: Acquisition) -> int:
    """Count the records of the leader: level 1.1 has no map projection."""
    return 7 - (of.level == "1.1") + len(_FACILITY_BYTES)


def leader(of: MapAcquisition | SlantAcquisition) -> bytes:
    """Write the whole leader file."""
    facility = [record(8 + i, (18, 200, 18, 70), size, {(12, 16): i + 1}) for i, size in enumerate(_FACILITY_BYTES)]
    return b"".join(
        [
            _descriptor(of),
            _summary(of),
            *([_map_projection(of)] if isinstance(of, MapAcquisition) else []),
            _orbit(of),
            _attitude(of),
            _radiometry(),
            _quality(),
            *facility,
        ]
    )


def _codes(kind: int) -> Codes:
    return (18, kind, 18, 20)


def _descriptor(of: Acquisition) -> bytes:
    """Count the records of each kind and state their length."""
    kinds = [
        (1, 4096),
        (0, 0) if of.level == "1.1" else (1, 1620),
        (1, 4680),
        (1, 16_384),
        (1, 9860),
        (0, 0),
        (1, 1620),
        *[(0, 0)] * 8,
    ]
    fields: dict[tuple[int, int], str | int] = {}
    for i, (count, size) in enumerate(kinds):
        fields |= {(180 + 12 * i, 186 + 12 * i): count, (186 + 12 * i, 192 + 12 * i): size}
    for i, size in enumerate(_FACILITY_BYTES):
        fields |= {(420 + 14 * i, 426 + 14 * i): 1, (426 + 14 * i, 434 + 14 * i): size}
    return descriptor(1, (11, 192, 18, 18), 1, "AL2 SARCSARL", fields)


def _summary(of: MapAcquisition | SlantAcquisition) -> bytes:
    middle = of.view(np.array([(of.grid.rows - 1) / 2]), np.array([(of.grid.cols - 1) / 2]))
    time = of.start + (of.stop - of.start) / 2
    fields: dict[tuple[int, int], str | int] = {
        (12, 16): 1,
        (20, 52): of.scene_id,
        (68, 100): time.strftime("%Y%m%d%H%M%S") + f"{time.microsecond // 1000:03d}",
        (116, 132): fixed(of.grid.place.lat),
        (132, 148): fixed(of.grid.place.lon),
        (148, 164): fixed(of.heading_deg),
        (164, 180): "GRS80",
        (180, 196): fixed(6378.137),
        (196, 212): fixed(6356.7523141),
        (212, 228): fixed(5.974),
        (228, 244): fixed(3.986005),
        (324, 332): (of.grid.rows + 1) // 2,
        (332, 340): (of.grid.cols + 1) // 2,
        (388, 392): len(of.polarisations),
        (396, 412): "ALOS2",
        (412, 444): "ALOS2 -L -0315-",
        (444, 452): of.orbit_number,
        (476, 484): fixed(90.0, 8, 3),
        (484, 492): fixed(float(middle.incidence_deg[0]), 8, 3),
        (502, 518): fixed(0.2424525, 16, 9),
        (518, 534): "LINEAR FM CHIRP",
        (710, 726): fixed(SAMPLING_MHZ),
        (758, 762): "YES",
        (762, 766): "YES",
        (798, 806): 8,
        (806, 818): "UNIFORM I,Q",
        (930, 934): "OFF",
        (1046, 1062): "SARSENSE",
        (1062, 1070): "SARSENSE",
        (1070, 1078): "002.012",
        (1094, 1110): of.level,
        (1110, 1142): "STANDARD GEOCODED IMAGE" if isinstance(of, MapAcquisition) else "BASIC IMAGE",
        (1174, 1190): fixed(of.looks),
        (1190, 1206): fixed(1.0),
        (1534, 1542): "ASCEND",
        (1670, 1678): "OTHER",
        (1678, 1682): "NO",
        (1682, 1686): "NO",
        (1686, 1702): fixed(SPACING_M),
        (1702, 1718): fixed(SPACING_M),
        (1718, 1734): "EXTRACTED CHIRP",
        (1838, 1854): fixed(float(middle.elevation_deg[0])),
    }
    return record(2, _codes(10), 4096, fields)


def _map_projection(of: MapAcquisition) -> bytes:
    """Write the UTM grid; corners are pixel centres: upper left, upper right, lower right, lower left."""
    grid = of.grid
    row = np.array([0.0, 0.0, grid.rows - 1.0, grid.rows - 1.0])
    col = np.array([0.0, grid.cols - 1.0, grid.cols - 1.0, 0.0])
    easting, northing = grid.utm(row, col)
    lon, lat = grid.lonlat(row, col)
    fields: dict[tuple[int, int], str | int] = {
        (28, 60): "GEOCODED",
        (60, 76): grid.cols,
        (76, 92): grid.rows,
        (92, 108): fixed(SPACING_M),
        (108, 124): fixed(SPACING_M),
        (124, 140): f"{'NAN':>16}",
        (236, 268): "GRS80",
        (268, 284): fixed(6_378_137.0),
        (284, 300): fixed(6_356_752.3141),
        (412, 444): "UTM-PROJECTION",
        (444, 476): "UNIVERSAL TRANSVERSE MERCATOR",
        (476, 480): grid.place.zone,
        (480, 496): fixed(500_000.0, 16, 5),
        (496, 512): fixed(0.0 if grid.place.lat >= 0 else 10_000_000.0, 16, 5),
        (512, 528): fixed(grid.place.lon),
        (528, 544): fixed(grid.place.lat),
        (576, 592): fixed(0.9996),
    }
    for i in range(4):
        fields |= {
            (944 + 32 * i, 960 + 32 * i): fixed(northing[i] / 1000.0),
            (960 + 32 * i, 976 + 32 * i): fixed(easting[i] / 1000.0),
            (1072 + 32 * i, 1088 + 32 * i): fixed(lat[i]),
            (1088 + 32 * i, 1104 + 32 * i): fixed(lon[i]),
        }
    unwrapped = np.unwrap(lon, period=360.0)
    tables = (_bilinear(row, col, unwrapped), _bilinear(row, col, lat))
    inverse = (_bilinear(unwrapped, lat, row), _bilinear(unwrapped, lat, col))
    for i, coefficient in enumerate(np.concatenate([*tables, *inverse])):
        fields[1264 + 20 * i, 1284 + 20 * i] = scientific(float(coefficient))
    return record(3, _codes(20), 1620, fields)


def _bilinear(x: Vector, y: Vector, z: Vector) -> Vector:
    """Fit z = a + b x + c y + d x y through four points."""
    return np.asarray(np.linalg.solve(np.stack([np.ones_like(x), x, y, x * y], axis=1), z), np.float64)


def _orbit(of: Acquisition) -> bytes:
    """Write 28 state vectors, one a minute, around the pass (metres and metres per second, Earth fixed)."""
    first = (of.start - timedelta(minutes=13)).replace(second=0, microsecond=0)
    times_s = np.array([of.of_pass(first + timedelta(minutes=i)) for i in range(28)])
    states = np.concatenate([of.orbit.position(times_s), of.orbit.velocity(times_s)], axis=1)
    midnight = first.replace(hour=0, minute=0)
    fields: dict[tuple[int, int], str | int] = {
        (12, 44): "2",
        (140, 144): 28,
        (144, 148): first.year,
        (148, 152): first.month,
        (152, 156): first.day,
        (156, 160): first.timetuple().tm_yday,
        (160, 182): scientific((first - midnight).total_seconds(), 22, 15),
        (182, 204): scientific(60.0, 22, 15),
        (204, 268): "ECR",
        (4100, 4101): "0",
    }
    for i, value in enumerate(states[0]):
        fields[44 + 16 * i, 60 + 16 * i] = fixed(value)
    for i, value in enumerate(states.ravel()):
        fields[386 + 22 * i, 408 + 22 * i] = scientific(value, 22, 15)
    return record(4, _codes(30), 4680, fields)


def _attitude(of: Acquisition) -> bytes:
    """Write a level attitude at the start and the end."""
    fields: dict[tuple[int, int], str | int] = {(12, 16): 2}
    for i, time in enumerate((of.start, of.stop)):
        at = 16 + 120 * i
        milliseconds = round((time - time.replace(hour=0, minute=0, second=0, microsecond=0)).total_seconds() * 1000)
        fields |= {(at, at + 4): time.timetuple().tm_yday, (at + 4, at + 12): milliseconds}
        for group in (at + 12, at + 66):
            fields |= {(group + 4 * k, group + 4 * k + 4): 0 for k in range(3)}
            fields |= {(group + 12 + 14 * k, group + 26 + 14 * k): scientific(0.0, 14, 6) for k in range(3)}
    return record(5, _codes(40), 16_384, fields)


def _radiometry() -> bytes:
    """Write the calibration factor and a distortion matrix without crosstalk."""
    fields: dict[tuple[int, int], str | int] = {
        (12, 16): 1,
        (16, 20): 1,
        (20, 36): fixed(CALIBRATION_FACTOR_DB),
    }
    for i, value in enumerate([1, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 1, 0]):
        fields[36 + 16 * i, 52 + 16 * i] = fixed(value)
    return record(6, _codes(50), 9860, fields)


def _quality() -> bytes:
    return record(7, _codes(60), 1620, {(12, 16): 1})
