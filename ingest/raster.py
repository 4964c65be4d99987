"""The one door to GDAL: a raster file is opened as what it must be, from where it must be, or refused.

GDAL guesses formats by content, follows references to other files and reads side-car files. A product from
elsewhere can use all three to make a reader return the bytes of any file, so none of them is left on here.
It never reaches for the network either: what lies in a store is fetched by us and only decoded by GDAL.
"""

import functools
import re
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Literal, Self

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio._env import set_gdal_config
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window as RasterWindow

from ingest.ranged import Source
from ingest.scene import SceneRejected, Window
from ingest.tiff import Tiff

Driver = Literal["GTiff", "PNG"]

MAX_DECODED_BYTES = 16 * 2**30
"""A raster that declares more pixels than this is refused before any is decoded."""
MAX_BLOCK_BYTES = 2**29
"""A single strip or block may not ask for more memory than this."""

_MAGIC: Mapping[Driver, tuple[bytes, ...]] = MappingProxyType(
    {
        "GTiff": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
        "PNG": (b"\x89PNG\r\n\x1a\n",),
    }
)
# Drivers that read other files or the network because a file says so.
_REFERENCE_DRIVERS = (
    "VRT DERIVED GTI STACTA STACIT WMS WMTS WCS HTTP OGCAPI PLMOSAIC DAAS EEDA EEDAI NGW MRF ESRIC "
    "KMLSUPEROVERLAY PostGISRaster Rasterlite TileDB Zarr netCDF HDF5 HDF5Image PDF SAFE SENTINEL2 "
    "DIMAP TIL TSX RS2 CEOS SAR_CEOS JAXAPALSAR"
)
_ZIP_PATH = re.compile(r"/vsizip/\{(?P<zip>[^{}]+)\}/(?P<member>.+)", re.DOTALL)


@functools.cache
def _guard() -> None:
    """Set GDAL's process-wide options; the drivers are skipped only if GDAL has not been used before."""
    set_gdal_config("GDAL_SKIP", _REFERENCE_DRIVERS)
    set_gdal_config("GDAL_DISABLE_READDIR_ON_OPEN", "EMPTY_DIR")  # no .ovr, .msk, .aux.xml beside the file
    set_gdal_config("GDAL_PAM_ENABLED", "NO")
    set_gdal_config("CPL_VSIL_CURL_ALLOWED_EXTENSIONS", ".none")
    set_gdal_config("GDAL_CACHEMAX", 128 * 2**20)  # bytes; the default is 5 % of the machine for each process


def zip_raster_path(archive: Path, member: str) -> str:
    """Give the path under which GDAL finds a member of a zip."""
    return f"/vsizip/{{{archive.resolve()}}}/{member}"


class RemoteRaster:
    """A TIFF in a store, with as much of a rasterio dataset as readers of products use."""

    driver, count = "GTiff", 1

    def __init__(self, tiff: Tiff) -> None:
        self.tiff, self.name = tiff, tiff.name
        self.height, self.width, self.dtypes, self.block_shapes = tiff.height, tiff.width, (tiff.dtype,), [tiff.block]

    def close(self) -> None:
        """Do nothing: there is nothing to give back."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def open_remote_raster(source: Source, name: str) -> RemoteRaster:
    """Open a TIFF that is read in pieces; ``name`` is for messages.

    Raises SceneRejected as :func:`open_raster` does, and StoreError where the store fails.
    """
    _guard()
    if source.size == 0:
        raise SceneRejected(f"{name} is empty (0 bytes), expected GTiff pixels: fetch the product again")
    tiff = Tiff.open(source, name)
    raster = RemoteRaster(tiff)
    _check_size(name, raster)
    _check_end(name, tiff.end, source.size)
    return raster


def open_raster(path: str, driver: Driver = "GTiff") -> Any:
    """Open a local raster file, or a member of a zip, for reading.

    ``path`` is a file path or comes from :func:`zip_raster_path`. Gives a rasterio dataset; the caller closes it.
    Raises SceneRejected where the file is missing, is not of the format, or declares an unreasonable size.
    """
    _guard()
    _check_magic(path, driver)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            dataset = rasterio.open(path, driver=driver)
    except RasterioError as error:
        raise SceneRejected(f"{path} cannot be read as {driver}: {error}; the file is damaged") from error
    try:
        _check_size(path, dataset)
        _check_complete(path, dataset)
    except SceneRejected:
        dataset.close()
        raise
    return dataset


def read_window(dataset: Any, window: Window, band: int = 1) -> NDArray[Any]:
    """Read one band of a window, (rows, cols) in the file's type; raises SceneRejected where blocks are damaged."""
    if isinstance(dataset, RemoteRaster):
        return dataset.tiff.read(window)
    place = RasterWindow(window.col, window.row, window.cols, window.rows)
    try:
        pixels = dataset.read(band, window=place)
    except (RasterioError, MemoryError) as error:
        raise SceneRejected(
            f"{dataset.name} has pixels that cannot be read (rows {window.row} to {window.row + window.rows - 1}): "
            f"{_root(error)}; the file is truncated or damaged: fetch the product again"
        ) from error
    return np.asarray(pixels)


def _root(error: BaseException) -> str:
    """Give the innermost cause: GDAL's own words instead of rasterio's "see previous exception"."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error)


def _check_magic(path: str, driver: Driver) -> None:
    """Refuse a file whose first bytes are not the format's."""
    try:
        with _open_bytes(path) as file:
            start = file.read(16)
    except (OSError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise SceneRejected(f"{path} cannot be opened: {error}") from error
    if not start:
        raise SceneRejected(f"{path} is empty (0 bytes), expected {driver} pixels: fetch the product again")
    if not start.startswith(_MAGIC[driver]):
        raise SceneRejected(
            f"{path} is not a {driver} file: it starts with {start[:8]!r}; another format under this name is refused"
        )


def _open_bytes(path: str) -> IO[bytes]:
    """Open the raw bytes of a file or a zip member; every other virtual path is refused."""
    if found := _ZIP_PATH.fullmatch(path):
        with zipfile.ZipFile(found["zip"]) as archive:
            return archive.open(found["member"])
    if path.startswith("/vsi") or "://" in path:
        raise SceneRejected(f"{path} is not a local file: GDAL's remote and virtual paths are not followed")
    return open(path, "rb")


def _check_size(path: str, dataset: Any) -> None:
    """Refuse what would decode to more than this machine should be asked for."""
    itemsize = max(np.dtype(_numpy_type(name)).itemsize for name in dataset.dtypes)
    decoded = dataset.count * dataset.height * dataset.width * itemsize
    if decoded > MAX_DECODED_BYTES:
        raise SceneRejected(
            f"{path} declares {dataset.height} x {dataset.width} pixels in {dataset.count} bands, {decoded} bytes "
            f"decoded; at most {MAX_DECODED_BYTES} are read"
        )
    block = max(rows * cols * itemsize for rows, cols in dataset.block_shapes)
    if block > MAX_BLOCK_BYTES:
        raise SceneRejected(f"{path} has blocks of {block} bytes; at most {MAX_BLOCK_BYTES} are read at once")


def _check_complete(path: str, dataset: Any) -> None:
    """Refuse a TIFF whose last block lies beyond the end of the file, before work is spent on the others."""
    if dataset.driver != "GTiff":
        return
    rows, cols = dataset.block_shapes[-1]
    block = f"{(dataset.width - 1) // cols}_{(dataset.height - 1) // rows}"
    offset, size = (
        dataset.get_tag_item(f"BLOCK_{what}_{block}", "TIFF", bidx=dataset.count) for what in ("OFFSET", "SIZE")
    )
    if not offset or not size:  # a sparse block, which is not stored
        return
    _check_end(path, int(offset) + int(size), _byte_size(path))


def _check_end(path: str, end: int, found: int) -> None:
    if end > found:
        raise SceneRejected(
            f"{path} is truncated: its last block ends at byte {end}, the file at {found}; fetch the product again"
        )


def _byte_size(path: str) -> int:
    if found := _ZIP_PATH.fullmatch(path):
        with zipfile.ZipFile(found["zip"]) as archive:
            return archive.getinfo(found["member"]).file_size
    return Path(path).stat().st_size


def _numpy_type(name: str) -> str:
    """Give the NumPy name of a rasterio type; complex integers have none."""
    return {"complex_int16": "complex64"}.get(name, name)
