import gzip
import io
import resource
import tarfile
from contextlib import ExitStack
from pathlib import Path

import pytest
from alos2_rasters import archive

from infra.store import Full
from ingest import alos2_archive
from ingest.alos2 import open_alos2
from ingest.alos2_archive import list_archive, unpack
from ingest.recipe import Pixels
from ingest.scene import SceneRejected

NAME = "N23W161_20_MOS_F02DAR.tar.gz"
BAND = "N23W161_20_sl_HH_F02DAR.tif"


def with_member(path: Path, **fields: object) -> Path:
    """Write an archive of one member whose header has these fields."""
    info = tarfile.TarInfo(BAND)
    for name, value in fields.items():
        setattr(info, name, value)
    with tarfile.open(path, "w:gz") as out:
        out.addfile(info)
    return path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../N23W161_20_sl_HH_F02DAR.tif", "a name that leaves the archive"),
        ("a/../../x", "a name that leaves the archive"),
        ("/etc/passwd", "a name that is not a relative path"),
        ("a//b", "a name that leaves the archive"),
        ("a\\b", "a name that is not a relative path"),
    ],
)
def test_names_that_lead_elsewhere_are_refused(tmp_path, name, message):
    path = archive(tmp_path / NAME, {name: b"data"})
    with pytest.raises(SceneRejected, match=message):
        list_archive(path)
    with pytest.raises(SceneRejected, match=message), ExitStack() as stack:
        unpack(path, {"HH": BAND}, stack)


@pytest.mark.parametrize(
    ("kind", "target"),
    [(tarfile.SYMTYPE, "/etc/passwd"), (tarfile.LNKTYPE, "other"), (tarfile.FIFOTYPE, ""), (tarfile.CHRTYPE, "")],
)
def test_links_and_devices_are_refused(tmp_path, kind, target):
    path = with_member(tmp_path / NAME, type=kind, linkname=target)
    with pytest.raises(SceneRejected, match="a link or device"):
        open_alos2(str(path), Pixels(quantity="gamma0-terrain"))


def test_a_name_that_occurs_twice_is_refused(tmp_path):
    path = archive(tmp_path / NAME, {BAND: b"x", f"again/{BAND}": b"y"})
    with pytest.raises(SceneRejected, match="a name that occurs twice"):
        list_archive(path)


def test_a_member_that_claims_a_great_size_is_refused_before_it_is_read(tmp_path):
    """The header says 3 GB; of zeros that are not there."""
    info = tarfile.TarInfo(BAND)
    info.size = 3 * 2**30
    path = tmp_path / NAME
    path.write_bytes(gzip.compress(info.tobuf()))
    with pytest.raises(SceneRejected, match=r"which is too large \(3221225472 bytes"):
        list_archive(path)


def test_an_archive_of_zeros_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(alos2_archive, "_RATIO_FROM_BYTES", 2**20)
    monkeypatch.setattr(alos2_archive, "MAX_RATIO", 100)
    path = archive(tmp_path / NAME, {BAND: bytes(2**22)})
    assert path.stat().st_size < 10_000
    with pytest.raises(SceneRejected, match="which is too large"):
        list_archive(path)


def test_a_header_that_claims_a_great_size_is_not_read(tmp_path):
    """An extended header is read at once: this one says a gigabyte."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 2**30
    path = tmp_path / NAME
    path.write_bytes(gzip.compress(info.tobuf(tarfile.USTAR_FORMAT) + bytes(2**16)))
    with pytest.raises(SceneRejected, match=r"not a readable tar.gz.*a header of 1073741824 bytes"):
        list_archive(path)


def test_too_many_members_are_refused(tmp_path):
    path = archive(tmp_path / NAME, {f"{i}": b"" for i in range(alos2_archive.MAX_MEMBERS + 1)})
    with pytest.raises(SceneRejected, match="more than 1000 members"):
        list_archive(path)


@pytest.mark.parametrize("keep", [0, 5, 100, 400])
def test_a_truncated_archive_is_refused(tmp_path, shared_data, keep):
    whole = archive(tmp_path / "whole.tar.gz", {BAND: bytes(range(256)) * 100}).read_bytes()
    path = tmp_path / NAME
    path.write_bytes(whole[: min(keep, len(whole) - 20)])
    with pytest.raises(SceneRejected, match="fetch"), ExitStack() as stack:
        unpack(path, {"HH": BAND}, stack)


def test_what_is_no_archive_is_refused(tmp_path):
    path = tmp_path / NAME
    path.write_bytes(b"PK\3\4 no tar here")
    with pytest.raises(SceneRejected, match=r"is not a readable tar\.gz"):
        list_archive(path)
    with pytest.raises(SceneRejected, match="cannot be opened"):
        list_archive(tmp_path / "absent.tar.gz")


def test_members_come_out_as_they_went_in(tmp_path):
    data = bytes(range(256)) * 20_000
    path = archive(tmp_path / NAME, {"skipped": b"s" * 5000, f"N23W161/{BAND}": data, "after": b""})
    assert list_archive(path) == ["skipped", BAND, "after"]
    with ExitStack() as stack:
        found = unpack(path, {"HH": BAND}, stack)
        assert {role: p.read_bytes() for role, p in found.items()} == {"HH": data}
        folder = found["HH"].parent
    assert not folder.exists()
    with pytest.raises(SceneRejected, match="has no HV"), ExitStack() as stack:
        unpack(path, {"HH": BAND, "HV": "other.tif"}, stack)


def test_a_band_that_is_another_format_is_refused(tmp_path):
    path = archive(tmp_path / NAME, {BAND: b"<VRTDataset/>" + bytes(100)})
    with pytest.raises(SceneRejected, match="is not a GTiff file"):
        open_alos2(str(path), Pixels(quantity="gamma0-terrain"))


def test_folders_in_an_archive_do_not_matter(tmp_path):
    path = tmp_path / NAME
    with tarfile.open(path, "w:gz") as out:
        folder = tarfile.TarInfo("./N23W161")
        folder.type = tarfile.DIRTYPE
        out.addfile(folder)
        info = tarfile.TarInfo(f"./N23W161/{BAND}")
        info.size = 3
        out.addfile(info, io.BytesIO(b"abc"))
    assert list_archive(path) == [BAND]


def test_a_full_disk_is_no_fault_of_the_archive(tmp_path):
    path = archive(tmp_path / NAME, {BAND: bytes(3_000_000)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(Full, match=r"cannot be written: .*TMPDIR"), ExitStack() as stack:
            unpack(path, {"HH": BAND}, stack)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
