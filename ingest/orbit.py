"""Where a satellite is: state vectors of an annotation or a precise orbit file, and a curve through them.

Between two state vectors the orbit is the cubic that meets both positions and both velocities (Hermite). On a
circular orbit of 7070 km radius it is within h^4 / 384 of the fourth derivative 9.0e-6 m/s^4 of the truth, where h
is the time between vectors: 0.24 mm for the 10 s of Sentinel-1 (0.25 mm on a real orbit), 0.31 m for 60 s.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from ingest.scene import SceneRejected
from ingest.xml import expect, number, parse, text

Floats = NDArray[np.float64]
Times = NDArray[np.datetime64]

MARGIN = np.timedelta64(60, "s")
"""An orbit file must reach this far beyond a scene on both sides."""
_MAX_STEP_S = 120.0
_KINDS = ("POEORB", "RESORB", "PREORB")  # the best first
_NAME = re.compile(
    r"(?P<platform>S1[A-Z])_OPER_AUX_(?P<kind>POEORB|RESORB|PREORB)_OPOD_(?P<made>\d{8}T\d{6})"
    r"_V(?P<start>\d{8}T\d{6})_(?P<stop>\d{8}T\d{6})\.EOF"
)


@dataclass(frozen=True, slots=True)
class Orbit:
    """A curve through state vectors in the Earth-fixed frame (WGS 84).

    ``knots_s`` (n,) are the vectors' times in seconds since ``epoch`` (UTC). On the stretch k the position in metres
    is the sum over p of ``coefficients[k, p] * s^p``, (n - 1, 4, 3), with s in seconds since its first knot.
    ``source`` names the file that it comes from.
    """

    epoch: np.datetime64
    knots_s: Floats
    coefficients: Floats
    source: str

    @classmethod
    def of_vectors(cls, times: Times, position: Floats, velocity: Floats, source: str) -> Self:
        """Lay the curve through vectors at ``times`` (n,), ascending; (n, 3) metres and metres per second.

        Raises SceneRejected for fewer than four vectors, gaps, or vectors that no orbit can hold.
        """
        epoch: np.datetime64 = times[0] if len(times) else np.datetime64(0, "ns")
        knots_s = seconds(times, epoch)
        step = np.diff(knots_s)
        if len(times) < 4 or (step <= 0).any() or step.max() > _MAX_STEP_S:
            raise SceneRejected(
                f"{source} has {len(times)} orbit state vectors; expected four or more, ascending in time and at most "
                f"{_MAX_STEP_S:g} s apart"
            )
        _check(knots_s, position, velocity, source)
        return cls(epoch, knots_s, _hermite(step, position, velocity), source)

    def state(self, time_s: Floats) -> tuple[Floats, Floats, Floats]:
        """Give positions, velocities and accelerations (n, 3) at times (n,) in seconds since the epoch."""
        k = np.clip(np.searchsorted(self.knots_s, time_s, side="right") - 1, 0, len(self.knots_s) - 2)
        s = (time_s - self.knots_s[k])[:, None]
        a, b, c, d = np.moveaxis(self.coefficients[k], 1, 0)
        return a + s * (b + s * (c + s * d)), b + s * (2 * c + s * 3 * d), 2 * c + s * 6 * d

    def covers(self, start: np.datetime64, stop: np.datetime64) -> bool:
        """Say whether the vectors reach from a time to another."""
        first, last = seconds(np.array([start, stop]), self.epoch)
        return bool(self.knots_s[0] <= first and last <= self.knots_s[-1])


def seconds(times: Times, epoch: np.datetime64) -> Floats:
    """Give times (n,) as seconds since an epoch, to a nanosecond."""
    return np.asarray((times - epoch) / np.timedelta64(1, "ns"), np.float64) * 1e-9


def moment(written: str, where: str) -> np.datetime64:
    """Read a UTC time; raises SceneRejected where it is none."""
    found: np.datetime64
    try:
        found = np.datetime64(written.removeprefix("UTC=").removesuffix("Z"), "ns")
    except ValueError:
        found = np.datetime64("NaT", "ns")
    if np.isnat(found):
        raise SceneRejected(f"{where}: {written[:40]!r} is not a time in ISO 8601; the file is damaged")
    return found


def read_annotated_orbit(root: Element, name: str) -> Orbit:
    """Read the state vectors of a Sentinel-1 product annotation."""
    found = root.findall("generalAnnotation/orbitList/orbit")
    times = np.array([moment(text(v, "time", name), name) for v in found], "datetime64[ns]")
    position, velocity = (
        np.array([[number(v, f"{what}/{axis}", name) for axis in "xyz"] for v in found]).reshape(-1, 3)
        for what in ("position", "velocity")
    )
    return Orbit.of_vectors(times, position, velocity, name)


def find_orbit(folder: str, platform: str, start: np.datetime64, stop: np.datetime64) -> Path:
    """Choose the orbit file of a folder (and those within) for a scene of a platform ("S1A") between two times.

    Its validity must hold the scene with a minute on each side. Precise orbits (POEORB) go before restituted
    (RESORB) and predicted (PREORB) ones, the newest generation first. Raises SceneRejected where none fits.
    """
    fitting: list[tuple[int, str, Path]] = []
    files = 0
    for path in sorted(Path(folder).rglob("*.EOF")):
        if not (named := _NAME.fullmatch(path.name)):
            continue
        files += 1
        valid = [_compact(named[which]) for which in ("start", "stop")]
        if named["platform"] == platform and valid[0] <= start - MARGIN and stop + MARGIN <= valid[1]:
            fitting.append((-_KINDS.index(named["kind"]), named["made"], path))
    if not fitting:
        raise SceneRejected(
            f"none of the {files} orbit files in {folder} is of {platform} and valid from a minute before {start} to a "
            f"minute after {stop}: fetch the POEORB or RESORB of that time, or leave out grid.orbits"
        )
    return max(fitting)[2]


def read_eof(path: Path, platform: str, start: np.datetime64, stop: np.datetime64) -> Orbit:
    """Read the state vectors of an orbit file around a scene. Raises SceneRejected where it does not fit."""
    name = str(path)
    root = parse(path.read_bytes(), name)
    expect(root, "Earth_Explorer_File", name)
    header = {
        "Fixed_Header/Mission": f"Sentinel-{platform[1:]}",
        "Variable_Header/Ref_Frame": "EARTH_FIXED",
        "Variable_Header/Time_Reference": "UTC",
    }
    for field, wanted in header.items():
        if (found := text(root, f"Earth_Explorer_Header/{field}", name)) != wanted:
            raise SceneRejected(f"{name}: {field} is {found[:40]}, expected {wanted}")
    return _vectors_between(root, start - MARGIN, stop + MARGIN, name)


def _vectors_between(root: Element, start: np.datetime64, stop: np.datetime64, name: str) -> Orbit:
    vectors = root.findall("Data_Block/List_of_OSVs/OSV")
    times = np.array([moment(text(v, "UTC", name), name) for v in vectors], "datetime64[ns]")
    used = np.flatnonzero((times >= start - np.timedelta64(20, "s")) & (times <= stop + np.timedelta64(20, "s")))
    if bad := {text(vectors[i], "Quality", name) for i in used} - {"NOMINAL"}:
        raise SceneRejected(f"{name} calls its vectors around the scene {', '.join(sorted(bad))}; expected NOMINAL")
    position, velocity = (
        np.array([[number(vectors[i], axis, name) for axis in axes] for i in used]).reshape(-1, 3)
        for axes in (("X", "Y", "Z"), ("VX", "VY", "VZ"))
    )
    return Orbit.of_vectors(times[used], position, velocity, name)


def _compact(written: str) -> np.datetime64:
    """Read a time as file names write it (20230823T123139)."""
    y, m, d, hour, minute, second = (written[i:j] for i, j in ((0, 4), (4, 6), (6, 8), (9, 11), (11, 13), (13, 15)))
    return moment(f"{y}-{m}-{d}T{hour}:{minute}:{second}", written)


def _hermite(step: Floats, position: Floats, velocity: Floats) -> Floats:
    """Give the cubic of each stretch by rising powers."""
    h = step[:, None]
    p, q, v, w = position[:-1], position[1:], velocity[:-1], velocity[1:]
    chord = (q - p) / h
    return np.stack([p, v, (3 * chord - 2 * v - w) / h, (v + w - 2 * chord) / h**2], axis=1)


def _check(knots_s: Floats, position: Floats, velocity: Floats, source: str) -> None:
    """Refuse vectors outside low Earth orbit, or whose velocities do not lead from one position to the next.

    Half the sum of two velocities misses the mean velocity by h^2 / 12 of its second derivative, 8.6e-3 m/s^3.
    """
    radius, speed = np.linalg.norm(position, axis=1), np.linalg.norm(velocity, axis=1)
    step = np.diff(knots_s)[:, None]
    miss = np.abs(np.diff(position, axis=0) / step - (velocity[:-1] + velocity[1:]) / 2)
    low = (radius > 6.5e6) & (radius < 8.5e6) & (speed > 6e3) & (speed < 9e3)
    if not low.all() or (miss > 2e-3 * step**2 + 0.01).any():
        raise SceneRejected(f"{source} has orbit state vectors that no satellite follows; the file is damaged")
