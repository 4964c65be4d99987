"""Simulated products: other readers understand them, and their truth comes back."""

import hashlib
import json
import math
import struct
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import rasterio
from defusedxml import ElementTree
from numpy.typing import NDArray
from oracles import orfeo
from pyproj import Transformer

from finetune.legend import read_legend
from infra.errors import UsageError
from ingest.alos2 import open_alos2
from ingest.catalog import read_catalog
from ingest.recipe import Pixels
from ingest.scene import Window
from ingest.sentinel1 import open_sentinel1
from ingest.simulate import simulate_alos2, simulate_catalog, simulate_sentinel1
from ingest.simulate_alos2_scene import LOOKS as ALOS2_LOOKS
from ingest.simulate_sentinel1 import LOOKS as SENTINEL1_LOOKS
from ingest.truth import CITY, FOREST, LAND_CLASSES, WATER, Land, Place, mean_sigma0, mean_sigma0_db, speckle

ROWS, COLS, SEED, LON, LAT = 600, 800, 1, 12.5, 42.0
SIZE = {"rows": ROWS, "cols": COLS, "seed": SEED, "lon": LON, "lat": LAT}
SMALL = {"rows": 96, "cols": 130, "seed": 2, "lon": 12.5, "lat": 42.0}
WHOLE = Window(0, 0, ROWS, COLS)


class Made(NamedTuple):
    product: Path
    labels: NDArray[np.uint8]
    sigma0: NDArray[np.float32]
    power: NDArray[np.float32]


def read(path: Path, band: int | None = None) -> NDArray:
    with rasterio.open(path) as raster:
        return raster.read(band)


def beside(product: Path, what: str) -> Path:
    return product.with_name(f"{product.name.removesuffix('.SAFE')}_{what}.tif")


@pytest.fixture(scope="module")
def sentinel1(tmp_path_factory) -> Made:
    product = simulate_sentinel1(tmp_path_factory.mktemp("s1"), truth=True, **SIZE)
    with open_sentinel1(str(product)) as scene:
        power = scene.power(WHOLE)
    return Made(product, read(beside(product, "labels"), 1), read(beside(product, "sigma0")), power)


@pytest.fixture(scope="module")
def alos2(tmp_path_factory) -> Made:
    product = simulate_alos2(tmp_path_factory.mktemp("a2"), truth=True, **SIZE)
    with open_alos2(str(product)) as scene:
        power = scene.power(WHOLE)
    return Made(product, read(beside(product, "labels"), 1), read(beside(product, "sigma0")), power)


# ---- the land


def patch(seed: int, rows: int, cols: int, spacing_m: float):
    north, east = np.mgrid[0:rows, 0:cols].astype(np.float32)
    return Land(seed).at((east - cols / 2) * spacing_m, (rows / 2 - north) * spacing_m)


@pytest.mark.parametrize("seed", range(8))
def test_every_class_lies_in_a_small_scene(seed):
    for spacing_m in (10.0, 6.25):
        share = np.bincount(patch(seed, 300, 400, spacing_m).classes.ravel(), minlength=len(LAND_CLASSES)) / 120_000
        assert len(share) == len(LAND_CLASSES)
        assert share.min() > 0.02
        assert share.max() < 0.45


def test_land_is_a_function_of_position_alone():
    whole = patch(5, 200, 300, 10.0)
    north, east = np.mgrid[0:200, 0:300].astype(np.float32)
    east_m, north_m = (east - 150) * 10, (100 - north) * 10
    part = Land(5).at(east_m[40:90, 11:170], north_m[40:90, 11:170])
    assert np.array_equal(part.classes, whole.classes[40:90, 11:170])
    assert not np.array_equal(patch(6, 200, 300, 10.0).classes, whole.classes)


def test_field_spread_keeps_the_class_mean_and_spares_what_is_no_field():
    north, east = np.mgrid[0:1000, 0:1000].astype(np.float32) * 20
    ground = Land(3, field_spread=0.2).at(east, north)
    assert np.all(ground.field_gain[np.isin(ground.classes, (WATER, FOREST, CITY))] == 1.0)
    assert 0.8 <= ground.field_gain.min() < 0.85
    assert 1.15 < ground.field_gain.max() <= 1.2
    assert ground.field_gain.mean() == pytest.approx(1.0, abs=0.01)
    assert np.all(patch(3, 50, 50, 10.0).field_gain == 1.0)


def test_backscatter_follows_physics():
    """Forest against soil stands out more in L-band cross-pol than in C; cross-pol is below co-pol everywhere."""
    contrast = {band: mean_sigma0_db(band, "HV")[FOREST] - mean_sigma0_db(band, "HV")[1] for band in ("C", "L")}
    assert contrast["L"] > contrast["C"] + 5
    for band in ("C", "L"):
        for co in ("HH", "VV"):
            assert np.all(np.array(mean_sigma0_db(band, "HV")) < np.array(mean_sigma0_db(band, co)))
            assert np.argmin(mean_sigma0_db(band, co)) == WATER
            assert np.argmax(mean_sigma0_db(band, co)) == CITY
        assert mean_sigma0_db(band, "HV") == mean_sigma0_db(band, "VH")
    assert mean_sigma0("C", "VV")[CITY] == pytest.approx(10**-0.35, rel=1e-6)


@pytest.mark.parametrize("looks", [1.0, 3.0, 4.4])
def test_speckle_has_mean_one_and_variance_one_over_looks(looks):
    drawn = speckle(4, "C", "VV", 0, looks, (1000, 1000))
    assert drawn.mean() == pytest.approx(1.0, abs=0.004)
    assert drawn.var() * looks == pytest.approx(1.0, abs=0.01)
    other = speckle(4, "C", "VH", 0, looks, (1000, 1000))
    assert abs(np.corrcoef(drawn.ravel(), other.ravel())[0, 1]) < 0.004


# ---- truth comes back


@pytest.mark.parametrize(
    ("sensor", "band", "names", "looks"),
    [("sentinel1", "C", ("VV", "VH"), SENTINEL1_LOOKS), ("alos2", "L", ("HH", "HV"), ALOS2_LOOKS)],
)
def test_class_means_and_looks(sensor, band, names, looks, request):
    made: Made = request.getfixturevalue(sensor)
    for number, name in enumerate(names):
        for class_id, expected in enumerate(mean_sigma0(band, name)):
            values = made.power[number][made.labels == class_id].astype(np.float64)
            error = 1.0 / math.sqrt(looks * len(values))
            assert values.mean() / expected == pytest.approx(1.0, abs=4.5 * error), (name, LAND_CLASSES[class_id].name)
            # The variance of a gamma variable's sample variance sets the tolerance; rounding adds little.
            tolerance = 5.0 * math.sqrt((2.0 + 6.0 / looks) / len(values))
            assert values.mean() ** 2 / values.var() / looks == pytest.approx(1.0, abs=tolerance + 0.01)


@pytest.mark.parametrize("sensor", ["sentinel1", "alos2"])
def test_labels_align_to_the_pixel(sensor, request):
    """Shifting the labels by one pixel in any direction makes the class means fit worse."""
    made: Made = request.getfixturevalue(sensor)
    level = np.where(made.labels == 255, 0.0, np.log(np.maximum(made.power[0], 1e-4)))[2:-2, 2:-2]

    def residual(down: int, right: int) -> float:
        labels = np.roll(made.labels, (down, right), (0, 1))[2:-2, 2:-2]
        inside = (labels != 255) & (made.labels[2:-2, 2:-2] != 255)
        return (
            sum(level[inside & (labels == c)].var() * (inside & (labels == c)).sum() for c in range(7)) / inside.sum()
        )

    best = residual(0, 0)
    for shift in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        assert residual(*shift) > best * 1.02


def test_sentinel1_inverts_to_the_rounding_of_the_numbers(sentinel1):
    for number, path in enumerate(sorted(sentinel1.product.glob("measurement/*.tiff"), key=lambda p: p.stem[-3:])):
        dn = read(path, 1).astype(np.float64)
        inside = dn > 0
        assert np.array_equal(inside, ~np.isnan(sentinel1.power[number]))
        assert np.array_equal(inside, sentinel1.labels != 255)
        difference = np.abs(sentinel1.power[number] - sentinel1.sigma0[number])[inside]
        # Half a number either way: |d(DN^2)| <= DN + 1/4, over the smallest A^2 (A > 550).
        assert np.all(difference <= (dn[inside] + 0.25) / 550.0**2 + 1e-6)
        assert sentinel1.power[number][inside].mean() == pytest.approx(
            sentinel1.sigma0[number][inside].mean(), rel=2e-5
        )


def test_alos2_inverts_to_the_rounding_of_the_numbers(alos2):
    inside = alos2.labels != 255
    assert np.array_equal(inside, ~np.isnan(alos2.power[0]))
    for power, truth in zip(alos2.power, alos2.sigma0, strict=True):
        sigma0 = truth[inside].astype(np.float64)
        rounding = (np.sqrt(sigma0 * 10**8.3) + 0.25) * 10**-8.3
        assert np.all(np.abs(power[inside] - sigma0) <= rounding + 2e-7 * sigma0)


def test_border_is_black_and_slanted(sentinel1):
    filled = sentinel1.labels == 255
    first = (~filled).argmax(axis=1)
    last = COLS - 1 - (~filled)[:, ::-1].argmax(axis=1)
    assert (first[0], first[-1]) == (3, 7)
    assert (last[0], last[-1]) == (COLS - 3, COLS - 8)
    noise = ElementTree.parse(next(sentinel1.product.glob("annotation/calibration/noise-*-vv-*"))).getroot()
    for vector in noise.iter("noiseRangeVector"):
        level = np.array(vector.findtext("noiseRangeLut").split(), float)
        assert level[-1] == 0.0
        assert 400 < level[:-1].min() < level[:-1].max() < 2500


def test_both_sensors_see_the_same_ground(sentinel1, alos2):
    row, col = (a.ravel().astype(float) for a in np.mgrid[20:580:7, 20:780:7])
    with open_sentinel1(str(sentinel1.product)) as scene:
        lon, lat = scene.locate(row, col).T
    with rasterio.open(beside(alos2.product, "labels")) as raster:
        easting, northing = Transformer.from_crs(4326, raster.crs, always_xy=True).transform(lon, lat)
        rows, cols = rasterio.transform.rowcol(raster.transform, easting, northing, op=np.floor)
    rows, cols = np.asarray(rows, int), np.asarray(cols, int)
    inside = (rows >= 0) & (rows < ROWS) & (cols >= 0) & (cols < COLS)
    theirs = alos2.labels[rows[inside], cols[inside]]
    ours = sentinel1.labels[row.astype(int), col.astype(int)][inside]
    known = theirs != 255
    assert known.sum() > 2000
    assert (ours == theirs)[known].mean() > 0.95


# ---- other readers


def bare_gdal(folder: Path, code: str) -> dict:
    """Run code with a GDAL of its own, all drivers on: ours leaves most of them out for the whole process."""
    line = [sys.executable, "-W", "ignore", "-c", f"import json, glob, numpy as np, rasterio\n{code}"]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_gdal_opens_the_safe(sentinel1, tmp_path):
    found = bare_gdal(
        sentinel1.product,
        f"""
with rasterio.open("manifest.safe", driver="SAFE") as scene:
    points, crs = scene.gcps
    np.save({str(tmp_path / "seen.npy")!r}, scene.read(1) > 0)
    safe = [scene.count, *scene.shape, len(points), crs.to_epsg(), scene.tags()["PRODUCT_TYPE"]]
with rasterio.open(glob.glob("measurement/*-vh-*.tiff")[0]) as raster:
    tags, points = raster.tags(), raster.gcps[0]
    tiff = [*raster.dtypes, raster.nodata, len(points), points[-1].row, points[-1].col]
    names = [tags["TIFFTAG_IMAGEDESCRIPTION"], tags["TIFFTAG_SOFTWARE"]]
print(json.dumps([safe, tiff, names]))
""",
    )
    assert found == [
        [2, ROWS, COLS, 210, 4326, "GRD"],
        ["uint16", None, 210, ROWS - 1, COLS - 1],
        ["Sentinel-1A IW GRD HR L1", "Sentinel-1 IPF 003.40"],
    ]
    assert np.array_equal(np.load(tmp_path / "seen.npy"), sentinel1.labels != 255)


def test_gdal_opens_the_ceos_image(alos2, tmp_path):
    found = bare_gdal(
        alos2.product,
        f"""
with rasterio.open(glob.glob("IMG-HV-*")[0]) as image:
    np.save({str(tmp_path / "dn.npy")!r}, image.read(1))
    print(json.dumps([image.driver, *image.shape, *image.dtypes]))
""",
    )
    assert found == ["SAR_CEOS", ROWS, COLS, "uint16"]
    dn = np.load(tmp_path / "dn.npy").astype(np.float64)
    assert np.array_equal(dn > 0, alos2.labels != 255)
    assert np.allclose((dn**2 * 10**-8.3)[dn > 0], alos2.power[1][dn > 0], rtol=1e-6)


@pytest.mark.parametrize("kind", ["annotation", "calibration", "noise"])
def test_annotation_keeps_to_the_schema(kind, sentinel1):
    from xarray_sentinel import esa_safe

    where = "annotation" if kind == "annotation" else f"annotation/calibration/{kind}-*"
    path = next(sentinel1.product.glob(f"{where}/*.xml" if kind == "annotation" else where))
    faults = list(esa_safe.cached_sentinel1_schemas(kind).iter_errors(str(path)))
    assert [f"{fault.path}: {fault.reason}" for fault in faults] == []


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_xarray_sentinel_calibrates(sentinel1):
    import xarray as xr
    import xarray_sentinel

    image = xr.open_dataset(sentinel1.product, engine="sentinel-1", group="IW/VH")
    tables = xr.open_dataset(sentinel1.product, engine="sentinel-1", group="IW/VH/calibration")
    assert dict(image.sizes) == {"azimuth_time": ROWS, "ground_range": COLS}
    assert tables.line[-1] >= ROWS
    assert 550 < float(tables.sigmaNought.min()) < float(tables.sigmaNought.max()) < 660
    calibrated = xarray_sentinel.calibrate_intensity(image.measurement, tables.sigmaNought).to_numpy()
    with open_sentinel1(str(sentinel1.product), Pixels(denoise=False)) as scene:
        ours = scene.power(WHOLE)[1]
    inside = sentinel1.labels != 255
    assert np.allclose(calibrated[inside], ours[inside], rtol=1e-5)
    for group in ("orbit", "gcp", "coordinate_conversion", "noise_range", "noise_azimuth"):
        assert xr.open_dataset(sentinel1.product, engine="sentinel-1", group=f"IW/VH/{group}").sizes


@pytest.fixture
def otb() -> str:
    return orfeo("otbcli_SARCalibration")


@pytest.mark.parametrize("denoise", [False, True])
def test_orfeo_toolbox_calibrates(denoise, sentinel1, otb, tmp_path):
    pixels = next(sentinel1.product.glob("measurement/*-vv-*.tiff"))
    out = tmp_path / "sigma0.tif"
    request = [otb, "-in", str(pixels), "-lut", "sigma", "-removenoise", str(int(denoise)), "-out", str(out), "float"]
    done = subprocess.run(request, capture_output=True, text=True, timeout=120, check=False)
    assert out.is_file(), done.stdout[-2000:]
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        theirs = read(out, 1)
    with open_sentinel1(str(sentinel1.product), Pixels(denoise=denoise)) as scene:
        ours = scene.power(WHOLE)[0]
    inside = (sentinel1.labels != 255) & (ours > 0)
    assert np.allclose(theirs[inside], ours[inside], rtol=1e-5, atol=1e-7)
    if denoise:
        assert theirs[inside].mean() == pytest.approx(sentinel1.sigma0[0][inside].mean(), rel=1e-4)


# ---- geometry of the annotation


def test_geolocation_range_and_orbit_agree(sentinel1):
    """Every grid point lies at right angles to the velocity, at the annotated range, at its annotated time."""
    root = ElementTree.parse(next(sentinel1.product.glob("annotation/*-vv-*.xml"))).getroot()
    start = datetime.fromisoformat(root.findtext("adsHeader/startTime"))

    def seconds(node, name):
        return (datetime.fromisoformat(node.findtext(name)) - start).total_seconds()

    def vector(node, name):
        return [float(node.findtext(f"{name}/{axis}")) for axis in "xyz"]

    states = list(root.iter("orbit"))
    assert len(states) >= 13
    nodes_s = np.array([seconds(state, "time") for state in states])
    position, velocity = (np.array([vector(state, name) for state in states]) for name in ("position", "velocity"))
    assert np.allclose(np.linalg.norm(velocity, axis=1), 7508, atol=5)
    points = list(root.iter("geolocationGridPoint"))
    assert len(points) == 210
    names = ("longitude", "latitude", "height")
    ground = np.stack(
        Transformer.from_crs(4979, 4978, always_xy=True).transform(
            *np.array([[float(p.findtext(n)) for n in names] for p in points]).T
        ),
        axis=1,
    )
    at_s = np.array([seconds(p, "azimuthTime") for p in points])
    i = np.searchsorted(nodes_s, at_s) - 1
    h = (nodes_s[i + 1] - nodes_s[i])[:, None]
    t = (at_s - nodes_s[i])[:, None] / h
    p0, p1, v0, v1 = position[i], position[i + 1], velocity[i] * h, velocity[i + 1] * h
    where = (
        (2 * t**3 - 3 * t**2 + 1) * p0 + (t**3 - 2 * t**2 + t) * v0 + (3 * t**2 - 2 * t**3) * p1 + (t**3 - t**2) * v1
    )
    slant_m = np.array([float(p.findtext("slantRangeTime")) for p in points]) * 299_792_458 / 2
    assert np.linalg.norm(where - ground, axis=1) == pytest.approx(slant_m, abs=0.01)
    moving = ((6 * t**2 - 6 * t) * (p0 - p1) + (3 * t**2 - 4 * t + 1) * v0 + (3 * t**2 - 2 * t) * v1) / h
    assert np.abs(((ground - where) * moving).sum(axis=1) / 7508.0).max() < 1.0  # metres along the track
    line, pixel = (np.array([int(p.findtext(n)) for p in points]) for n in ("line", "pixel"))
    assert at_s == pytest.approx(line * float(root.find(".//azimuthTimeInterval").text), abs=3e-5)
    conversion = root.findall(".//coordinateConversionList/coordinateConversion")[2]
    fit = np.polynomial.Polynomial([float(c) for c in conversion.findtext("grsrCoefficients").split()])
    first = line == 0
    assert fit(pixel[first] * 10.0) == pytest.approx(slant_m[first], abs=0.5)
    back = np.polynomial.Polynomial([float(c) for c in conversion.findtext("srgrCoefficients").split()])
    assert back(slant_m[first] - float(conversion.findtext("sr0"))) == pytest.approx(pixel[first] * 10.0, abs=0.5)


@pytest.mark.parametrize(("lon", "lat"), [(180.0, -17.0), (-179.99, 65.0), (3.0, 0.0), (-62.5, -11.05)])
def test_places_at_the_edges_of_the_map(lon, lat, tmp_path):
    request = {**SMALL, "lon": lon, "lat": lat}
    middle = np.array([47.5]), np.array([64.5])
    for make, opened in ((simulate_sentinel1, open_sentinel1), (simulate_alos2, open_alos2)):
        with opened(str(make(tmp_path, **request))) as scene:
            found_lon, found_lat = scene.locate(*middle)[0]
        assert (found_lon - lon + 180) % 360 - 180 == pytest.approx(0.0, abs=1e-4)
        assert found_lat == pytest.approx(lat, abs=1e-4)
    assert Place(-62.5, -11.05).epsg == 32720


def test_ascending_pass_faces_east(tmp_path):
    with open_sentinel1(str(simulate_sentinel1(tmp_path, direction="Ascending", **SMALL))) as scene:
        corner, down, right = scene.locate(np.array([0.0, 95.0, 0.0]), np.array([0.0, 0.0, 129.0]))
        assert scene.info.orbit == "ascending"
    assert down[1] > corner[1]
    assert right[0] > corner[0]


# ---- the files


def records(path: Path, until: int | None = None):
    data = path.read_bytes()[:until]
    at = 0
    while at < len(data):
        sequence, *codes, length = struct.unpack(">I4BI", data[at : at + 12])
        yield sequence, tuple(codes), data[at : at + length]
        at += length
    assert at == len(data)


def test_alos2_records(alos2):
    name = alos2.product.name
    leader = list(records(alos2.product / f"LED-{name}"))
    assert [sequence for sequence, _, _ in leader] == list(range(1, 13))
    assert [len(data) for _, _, data in leader[:7]] == [720, 4096, 1620, 4680, 16_384, 9860, 1620]
    assert [codes[1] for _, codes, _ in leader[1:7]] == [10, 20, 30, 40, 50, 60]
    assert float(leader[5][2][20:36]) == -83.0
    grid = leader[2][2]
    north_km, west_km = float(grid[944:960]), float(grid[960:976])
    south_km, east_km = float(grid[1008:1024]), float(grid[1024:1040])
    assert (east_km - west_km) * 1000 == pytest.approx((COLS - 1) * 6.25)
    assert (north_km - south_km) * 1000 == pytest.approx((ROWS - 1) * 6.25)
    with rasterio.open(beside(alos2.product, "labels")) as raster:
        assert raster.crs.to_epsg() == 32633
        assert raster.transform.c == pytest.approx(west_km * 1000 - 3.125)
        assert raster.transform.f == pytest.approx(north_km * 1000 + 3.125)
    volume = list(records(alos2.product / f"VOL-{name}"))
    assert [codes[0] for _, codes, _ in volume] == [192, 219, 219, 219, 219, 18]
    assert [data[64:68] for _, _, data in volume[1:5]] == [b"SARL", b"IMOP", b"IMOP", b"SART"]
    assert int(volume[2][2][100:108]) == ROWS + 1
    trailer = (alos2.product / f"TRL-{name}").read_bytes()
    assert len(trailer) == 720 + int(trailer[496:504])


def test_alos2_lines_carry_their_place(alos2):
    image = list(records(next(alos2.product.glob("IMG-HV-*"))))
    assert len(image) == ROWS + 1
    with open_alos2(str(alos2.product)) as scene:
        expected = scene.locate(np.full(3, 299.0), np.array([0.0, (COLS - 1) // 2, COLS - 1.0]))
    sequence, codes, line = image[300]
    assert (sequence, codes[1], len(line)) == (301, 11, 192 + 2 * COLS)
    assert struct.unpack(">I", line[12:16])[0] == 300
    assert struct.unpack(">2H", line[52:56]) == (0, 1)
    lat = np.array(struct.unpack(">3i", line[132:144])) / 1e6
    lon = np.array(struct.unpack(">3i", line[144:156])) / 1e6
    assert np.stack([lon, lat], axis=1) == pytest.approx(expected, abs=1e-6)
    assert struct.unpack(">2I", line[36:44]) == (2021, 26)


def test_alos2_layout_is_that_of_the_real_product(alos2, shared_data):
    real = shared_data / "alos2" / "l15_ceos"
    name = "ALOS2015976960-140909-FBDR1.5GUA"
    theirs, ours = (real / f"IMG-HH-{name}").read_bytes(), next(alos2.product.glob("IMG-HH-*")).read_bytes()[:720]
    for start, stop in ((4, 180), (192, 236), (244, 248), (256, 280), (288, 448)):
        assert ours[start:stop] == theirs[start:stop]
    pairs = [
        (sim[2], known[2])
        for sim, known in zip(records(next(alos2.product.glob("LED-*"))), records(real / f"LED-{name}"), strict=True)
    ]
    assert [(a[:12], len(a)) for a, _ in pairs] == [(b[:12], len(b)) for _, b in pairs]
    # Wherever ours states something, theirs does too: no field is shifted.
    for sim, known in pairs[:4] + pairs[5:6]:
        stated = [i for i in range(12, len(sim)) if sim[i : i + 1].strip() and not known[i : i + 1].strip(b" \0")]
        assert len(stated) < 0.1 * sum(1 for i in range(12, len(sim)) if sim[i : i + 1].strip())
    assert pairs[5][0] == pairs[5][1]
    keys = [line.split("=")[0] for line in (real / "summary.txt").read_text().splitlines()]
    found = [line.split("=")[0] for line in (alos2.product / "summary.txt").read_text().splitlines()]
    assert set(found) <= set(keys)


def test_sentinel1_has_every_part_of_a_real_annotation(sentinel1, shared_data):
    real = next((shared_data / "sentinel1").glob("S1B_IW_GRDH*.SAFE"))
    for kind in ("annotation/*-vv-*.xml", "annotation/calibration/calibration-*", "annotation/calibration/noise-*"):
        trees = [ElementTree.parse(next(product.glob(kind))).getroot() for product in (sentinel1.product, real)]
        ours, theirs = ({child.tag for child in tree} for tree in trees)
        assert ours == theirs
    path = "imageAnnotation/imageInformation"
    tags = [
        [child.tag for child in ElementTree.parse(next(p.glob("annotation/*-vv-*.xml"))).getroot().find(path)]
        for p in (sentinel1.product, real)
    ]
    assert tags[0] == tags[1]


def test_manifest_lists_the_files(sentinel1):
    text = (sentinel1.product / "manifest.safe").read_text()
    files = [p for p in sentinel1.product.rglob("*") if p.is_file() and p.name != "manifest.safe"]
    assert len(files) == 8
    for path in files:
        assert f'href="./{path.relative_to(sentinel1.product)}"' in text
        assert hashlib.md5(path.read_bytes()).hexdigest() in text


def tree(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()
    }


@pytest.mark.parametrize("make", [simulate_sentinel1, simulate_alos2])
def test_same_request_same_bytes(make, tmp_path):
    first = make(tmp_path / "a", truth=True, **SMALL)
    second = make(tmp_path / "b", truth=True, **SMALL)
    assert first.name == second.name
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    make(tmp_path / "a", truth=True, **SMALL)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    other = make(tmp_path / "c", truth=True, **{**SMALL, "seed": 3})
    assert other.name != first.name
    assert not np.array_equal(read(beside(other, "sigma0")), read(beside(first, "sigma0")))


def test_one_polarisation_is_the_same_as_of_two(tmp_path):
    both = simulate_sentinel1(tmp_path / "both", polarisations=("HH", "HV"), **SMALL)
    one = simulate_sentinel1(tmp_path / "one", polarisations=("HH",), **SMALL)
    assert "_1SDH_" in both.name
    assert "_1SSH_" in one.name
    pixels = [read(next(p.glob("measurement/*-hh-*.tiff")), 1) for p in (both, one)]
    assert np.array_equal(*pixels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 8}, "at least 32 x 32"),
        ({"seed": -1}, "seed must not be negative"),
        ({"lat": 89.0}, "expected -180..180 and -80..80"),
        ({"polarisations": ("XX",)}, "expected some of HH, HV, VH, VV"),
        ({"polarisations": ()}, "expected some of HH, HV, VH, VV"),
        ({"polarisations": ("HH", "VV")}, "deliver"),
    ],
)
@pytest.mark.parametrize("make", [simulate_sentinel1, simulate_alos2])
def test_impossible_requests_are_refused(make, change, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        make(tmp_path, **{**SMALL, **change})
    assert not [p for p in tmp_path.iterdir() if p.is_dir()]


def test_catalog(tmp_path):
    path = simulate_catalog(tmp_path / "demo", scenes=3, rows=64, cols=80, seed=7)
    for source in (path, tmp_path / "demo"):
        catalog = read_catalog(source, 16)
        assert [unit.name[:3] for unit in catalog.units] == ["ALO", "S1A", "S1A"]
        assert catalog.rejects == ()
        assert all(unit.sources[0].labels for unit in catalog.units)
        assert read_legend(catalog.legend, "demo").names == tuple(c.name for c in LAND_CLASSES)
    stored = json.loads((tmp_path / "demo" / "alos-2" / "legend.json").read_text())
    assert [c["id"] for c in stored["classes"]] == list(range(len(LAND_CLASSES)))
    with pytest.raises(UsageError, match="at least one scene"):
        simulate_catalog(tmp_path, scenes=0, rows=64, cols=64, seed=0)
