"""Simulated pixels behind real Sentinel-1 annotation: the metadata is a real product's, only the pixels are not."""

import json
import re
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.windows import Window as RasterWindow

IPF_340 = "S1B_IW_GRDH_1SDV_20211223T051122_20211223T051147_030148_039993_5371"
IPF_331 = "S1A_IW_GRDH_1SDV_20210119T031653_20210119T031718_036201_043ED0_8255"
IPF_270 = "S1A_IW_GRDH_1SDV_20150203T043109_20150203T043134_004454_00574F_6D00"
IPF_236 = "S1A_IW_GRDH_1SDV_20150222T170725_20150222T170750_004739_005DD8_CEAB"
EW_352 = "S1A_EW_GRDM_1SDH_20221130T014342_20221130T014446_046117_058549_BB15"
SLC_340 = "S1A_IW_SLC__1SDV_20220104T170557_20220104T170624_041314_04E951_F1F1"
SLC_ZIP = "S1A_IW_SLC__1SDV_20200511T135117_20200511T135144_032518_03C421_7768"

Block = tuple[int, int, int, int]
LOOKS = 4.4


def unpack(shared_data: Path, name: str, folder: Path) -> Path:
    """Copy a real product's metadata to ``folder/<name>.SAFE``, without its pixels."""
    source, target = shared_data / "sentinel1", folder / f"{name}.SAFE"
    if (archive := source / f"{name}.zip").is_file():
        with zipfile.ZipFile(archive) as zipped:
            for info in zipped.infolist():
                inner = info.filename.partition(f"{name}.SAFE/")[2]
                if inner.endswith((".xml", ".safe", ".xsd")):
                    (target / inner).parent.mkdir(parents=True, exist_ok=True)
                    (target / inner).write_bytes(zipped.read(info))
    else:
        found = next(p for p in (source / f"{name}.SAFE", source / name) if p.is_dir())
        shutil.copytree(found, target, ignore=shutil.ignore_patterns("*.tiff"), copy_function=shutil.copyfile)
    for part in (target, *(p for p in target.rglob("*") if p.is_dir())):
        part.chmod(0o755)  # the shared data are read-only
    (target / "measurement").mkdir(exist_ok=True)
    return target


def images(product: Path) -> list[Path]:
    """Give the annotation files, one per polarisation."""
    return sorted((product / "annotation").glob("*.xml"))


def shape_of(annotation: Path) -> tuple[int, int]:
    """Give the (rows, cols) that an annotation declares."""
    root = ElementTree.parse(annotation).getroot()
    return int(root.findtext(".//numberOfLines") or 0), int(root.findtext(".//numberOfSamples") or 0)


def speckled(rows: int, cols: int, generator: np.random.Generator) -> NDArray[np.uint16]:
    """Draw digital numbers of land and water patches with gamma speckle; about one in 500 is 0 (no data)."""
    row, col = np.arange(rows)[:, None] // 64, np.arange(cols)[None, :] // 64
    level = np.where((row + col) % 3 == 0, 45.0, np.where((row * col) % 2 == 0, 120.0, 350.0))
    power = level**2 * generator.gamma(LOOKS, 1 / LOOKS, (rows, cols))
    numbers = np.clip(np.rint(np.sqrt(power)), 1, 65535)
    return np.where(generator.random((rows, cols)) < 0.002, 0, numbers).astype(np.uint16)


def complex_speckled(rows: int, cols: int, generator: np.random.Generator) -> NDArray[np.complex64]:
    """Draw complex digital numbers of land and water patches; in water a few are 0."""
    row, col = np.arange(rows)[:, None] // 64, np.arange(cols)[None, :] // 64
    level = np.where((row + col) % 3 == 0, 2.0, np.where((row * col) % 2 == 0, 60.0, 350.0))
    parts = [np.clip(np.rint(level * generator.normal(size=(rows, cols))), -32768, 32767) for _ in range(2)]
    return (parts[0] + 1j * parts[1]).astype(np.complex64)


def write_pixels(product: Path, blocks: Iterable[Block] | None = None, seed: int = 1, **options: Any) -> None:
    """Write every measurement in its declared shape: speckle in the blocks (row, col, rows, cols), 0 elsewhere.

    Without blocks the whole image is filled. Unwritten blocks take no space (sparse, compressed TIFF).
    """
    for number, annotation in enumerate(images(product)):
        rows, cols = shape_of(annotation)
        slc = "<pixelValue>Complex<" in annotation.read_text()
        draw: Any = complex_speckled if slc else speckled
        generator = np.random.default_rng([seed, number])
        profile = {"tiled": True, "blockxsize": 512, "blockysize": 256, "compress": "deflate", "zlevel": 1}
        profile |= {"SPARSE_OK": "TRUE"} | options
        path = product / "measurement" / f"{annotation.stem}.tiff"
        with rasterio.open(
            path, "w", driver="GTiff", width=cols, height=rows, count=1, dtype="complex_int16" if slc else "uint16",
            gcps=_corners(annotation), crs="EPSG:4326", **profile,
        ) as file:  # fmt: skip
            file.update_tags(
                TIFFTAG_IMAGEDESCRIPTION=f"Sentinel-1{annotation.name[2].upper()} IW {'SLC' if slc else 'GRD HR'} L1",
                TIFFTAG_SOFTWARE="Sentinel-1 IPF 003.40",
            )
            for row, col, height, width in [(0, 0, rows, cols)] if blocks is None else blocks:
                pixels = draw(height, width, generator)
                file.write(pixels, 1, window=RasterWindow(col, row, width, height))


def first_cell(shared_data: Path, folder: Path) -> Path:
    """Make the first grid cell of the IPF 3.31 dual-polarisation product, its first and last pixels simulated."""
    product = unpack(shared_data, IPF_331, folder)
    rows, cols = crop(product, 1, 1)
    write_pixels(product, [(0, 0, 128, 512), (rows - 16, cols - 16, 16, 16)])
    return product


def _corners(annotation: Path) -> list[rasterio.control.GroundControlPoint]:
    """Give the geolocation grid as GDAL's control points, as the real measurements carry it."""
    fields = ("line", "pixel", "longitude", "latitude", "height")
    points = ElementTree.parse(annotation).getroot().iter("geolocationGridPoint")
    return [rasterio.control.GroundControlPoint(*(float(p.findtext(f) or 0) for f in fields)) for p in points]


def crop(product: Path, grid_rows: int, grid_cols: int) -> tuple[int, int]:
    """Cut a product to the first cells of its geolocation grid, before its pixels are written; give the shape.

    Everything stays what it is for the pixels that remain: grid points beyond are dropped, LUT vectors and noise
    blocks reach beyond the image as they also do in whole products.
    """
    for annotation in images(product):
        tree = ElementTree.parse(annotation)
        points = tree.getroot().find("geolocationGrid/geolocationGridPointList")
        assert points is not None
        lines = sorted({int(p.findtext("line") or 0) for p in points})
        pixels = sorted({int(p.findtext("pixel") or 0) for p in points})
        last_line, last_pixel = lines[grid_rows], pixels[grid_cols]
        for point in list(points):
            beyond = int(point.findtext("line") or 0) > last_line or int(point.findtext("pixel") or 0) > last_pixel
            if beyond:
                points.remove(point)
        points.set("count", str(len(points)))
        _set(tree, "numberOfLines", last_line + 1)
        _set(tree, "numberOfSamples", last_pixel + 1)
        tree.write(annotation, encoding="UTF-8", xml_declaration=True)
    return last_line + 1, last_pixel + 1


def _set(tree: Any, field: str, value: int) -> None:
    element = tree.getroot().find(f"imageAnnotation/imageInformation/{field}")
    element.text = str(value)


def zip_product(product: Path, target: Path, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    """Zip a SAFE folder as the archives do, with the folder as the only entry at the root."""
    with zipfile.ZipFile(target, "w", compression, compresslevel=1) as zipped:
        for file in sorted(product.rglob("*")):
            zipped.write(file, f"{product.name}/{file.relative_to(product).as_posix()}")
    return target


def cloud_optimised(product: Path) -> Path:
    """Make a copy with the GDAL options of CDSE (smaller blocks) and another CRC in its name; give its folder."""
    copy = product.with_name(product.name.removesuffix(".SAFE")[:-4] + "097D_COG.SAFE")
    shutil.copytree(product, copy, ignore=shutil.ignore_patterns("*.tiff"))
    (copy / "measurement").mkdir(exist_ok=True)
    options = {"nodata": 0, "overview_count": 2, "blocksize": 256, "overview_resampling": "rms", "compress": "zstd"}
    for file in (product / "measurement").iterdir():
        rasterio.shutil.copy(file, copy / "measurement" / f"{file.stem}-cog.tiff", driver="COG", **options)
    return copy


def in_bucket(product: Path, folder: Path) -> Path:
    """Copy a ground range product as the AWS bucket lays it out: short names, and what they stand for in a file."""
    short = re.compile(r"s1[a-d]-(\w+)-grd-(\w\w)-[^/]*(?=\.)")
    for file in sorted(p for p in product.rglob("*") if p.is_file()):
        target = folder / short.sub(r"\1-\2", file.relative_to(product).as_posix())
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    (folder / "productInfo.json").write_text(json.dumps({"id": product.name.removesuffix(".SAFE")}))
    return folder


def pose(product: Path, mode: str, swath: str, shape: tuple[int, int] | None = None, number: str = "") -> None:
    """Make the images of a product pass for those of another mode.

    With a shape the image loses its bursts, and its geolocation grid is squeezed into it.
    """
    for annotation in images(product):
        tree = ElementTree.parse(annotation)
        root: Any = tree.getroot()
        old = root.findtext("adsHeader/swath")
        for path, value in (("adsHeader/mode", mode), ("adsHeader/swath", swath)):
            root.find(path).text = value
        if shape:
            _squeeze(root, shape)
        tree.write(annotation, encoding="UTF-8", xml_declaration=True)
        for file in sorted((product / "annotation").rglob(f"*{annotation.stem}.xml")):
            text = file.read_text().replace(f"<swath>{old}</swath>", f"<swath>{swath}</swath>")
            name = file.name.replace(f"-{annotation.stem.split('-')[1]}-", f"-{swath.lower()}-")
            file.unlink()
            file.with_name(name[:-7] + number + ".xml" if number else name).write_text(text)


def _squeeze(root: Any, shape: tuple[int, int]) -> None:
    info = root.find("imageAnnotation/imageInformation")
    for field, axis, size in (("numberOfLines", "line", shape[0]), ("numberOfSamples", "pixel", shape[1])):
        last = max(int(point.findtext(axis)) for point in root.iter("geolocationGridPoint"))
        for point in root.iter("geolocationGridPoint"):
            place = point.find(axis)
            place.text = str(round(int(place.text) * (size - 1) / last))
        info.find(field).text = str(size)
    bursts = root.find("swathTiming/burstList")
    for burst in list(bursts):
        bursts.remove(burst)
    bursts.set("count", "0")
