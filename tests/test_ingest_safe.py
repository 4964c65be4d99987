import os
import stat
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.store import open_store
from ingest.members import MAX_MEMBERS
from ingest.safe import Layout, open_layout
from ingest.scene import SceneRejected

NAME = "S1A_IW_GRDH_1SDV_20210119T031653_20210119T031718_036201_043ED0_8255"
FILES = {
    "manifest.safe": b"<manifest/>",
    "annotation/iw-vv.xml": b"<product/>",
    "annotation/calibration/noise-iw-vv.xml": b"<noise/>",
    "measurement/iw-vv.tiff": bytes(range(256)) * 8192,  # 2 MiB
    "preview/quick-look.png": b"png",
}


def folder(parent: Path, name: str = f"{NAME}.SAFE") -> Path:
    root = parent / name
    for inner, data in FILES.items():
        (root / inner).parent.mkdir(parents=True, exist_ok=True)
        (root / inner).write_bytes(data)
    return root


def archive(path: Path, prefix: str = f"{NAME}.SAFE/", extra: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for inner, data in FILES.items():
            method = zipfile.ZIP_STORED if inner.endswith(("tiff", "iw-vv.xml")) else None
            zipped.writestr(prefix + inner, data, compress_type=method)
        for inner, data in (extra or {}).items():
            zipped.writestr(inner, data)
    return path


def check(layout: Layout) -> None:
    assert layout.name == NAME
    assert dict(layout.sizes) == {name: len(data) for name, data in FILES.items()}
    assert layout.read("annotation/iw-vv.xml") == b"<product/>"
    assert layout.under("annotation", ".xml") == ["annotation/iw-vv.xml"]
    assert layout.under("measurement", ".tif|.tiff") == ["measurement/iw-vv.tiff"]
    with pytest.raises(SceneRejected, match=r"has no annotation/iw-vh.xml"):
        layout.read("annotation/iw-vh.xml")


def test_folder_and_zip_hold_the_same_members(tmp_path: Path) -> None:
    layouts = [
        open_layout(str(folder(tmp_path))),
        open_layout(str(folder(tmp_path, NAME))),
        open_layout(str(archive(tmp_path / f"{NAME}.zip"))),
        open_layout(str(archive(tmp_path / f"{NAME}.SAFE.zip", prefix=""))),
        open_layout(str(archive(tmp_path / "download.zip", prefix=f"safe/{NAME}.SAFE/"))),
    ]
    for layout in layouts:
        check(layout)
    assert len({layout.fingerprint() for layout in layouts}) == 1


def in_memory(path: Path, url: str) -> str:
    """Put a folder or file into a store; give where it is then."""
    store = open_store(url)
    for file in [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]:
        store.put(file.relative_to(path.parent).as_posix(), file.read_bytes())
    return f"{url}/{path.name}"


def test_a_store_holds_the_same_members(tmp_path: Path) -> None:
    places = [folder(tmp_path), folder(tmp_path, NAME), archive(tmp_path / f"{NAME}.zip")]
    expected = open_layout(str(places[0])).fingerprint()
    for place in places:
        layout = open_layout(in_memory(place, "memory://safe"))
        check(layout)
        assert layout.fingerprint() == expected
        assert layout.where("manifest.safe") == f"memory://safe/{place.name}/manifest.safe"


def test_what_a_store_holds_is_no_more_trusted(tmp_path: Path) -> None:
    cut = archive(tmp_path / "cut.zip")
    os.truncate(cut, cut.stat().st_size // 2)
    many = folder(tmp_path, "many")
    for number in range(MAX_MEMBERS):
        (many / f"{number}").touch()
    for path, message in [
        (archive(tmp_path / "out.zip", extra={"../escaped.txt": b"x"}), r"a name that .*; the archive is refused"),
        (cut, r"cut.zip is not a zip"),
        (many, r"memory://hostile/many has more than 2000 objects"),
    ]:
        with pytest.raises(SceneRejected, match=message):
            open_layout(in_memory(path, "memory://hostile"))
    with pytest.raises(SceneRejected, match=r"memory://hostile/gone has no manifest.safe"):
        open_layout("memory://hostile/gone")
    with pytest.raises(SceneRejected, match=r"memory://hostile/gone.zip does not exist"):
        open_layout("memory://hostile/gone.zip")
    layout = open_layout(in_memory(archive(tmp_path / "changed.zip"), "memory://hostile"))
    open_store("memory://hostile").put("changed.zip", b"PK")
    with pytest.raises(SceneRejected, match=r"manifest.safe cannot be read"):
        layout.read("manifest.safe")


def test_buckets_name_the_product_in_a_file_of_their_own(tmp_path: Path) -> None:
    root = folder(tmp_path, "renamed")
    for text, name in [
        (f'{{"id": "{NAME}"}}', NAME),
        ('{"id": "../../etc/passwd"}', "renamed"),
        ('{"id": 5}', "renamed"),
        ("[]", "renamed"),
    ]:
        (root / "productInfo.json").write_text(text)
        assert open_layout(str(root)).name == name
    for text in ("{", "[" * 100_000):
        (root / "productInfo.json").write_text(text)
        with pytest.raises(SceneRejected, match=r"productInfo.json is not JSON"):
            open_layout(str(root))


@pytest.mark.parametrize("change", ["annotation/iw-vv.xml", "measurement/iw-vv.tiff", "manifest.safe", "size"])
def test_fingerprint_follows_the_content(tmp_path: Path, change: str) -> None:
    root = folder(tmp_path)
    before = open_layout(str(root)).fingerprint()
    (root / "preview/quick-look.png").write_bytes(b"other")
    assert open_layout(str(root)).fingerprint() == before
    if change == "size":
        os.truncate(root / "measurement/iw-vv.tiff", 2**21 - 256)
    else:
        data = (root / change).read_bytes()
        (root / change).write_bytes(b"?" + data[1:])
    assert open_layout(str(root)).fingerprint() != before


@pytest.mark.parametrize(
    "name",
    ["../escaped.txt", "/etc/passwd", "a/../../b", "a\\..\\b", "C:/x", "a//b", "./a", "x{y}/a"],
)
def test_names_that_leave_the_zip_are_refused(tmp_path: Path, name: str) -> None:
    path = archive(tmp_path / "x.zip", extra={name: b"x"})
    with pytest.raises(SceneRejected, match=r"a name that .*; the archive is refused"):
        open_layout(str(path))


def test_links_duplicates_and_unknown_members_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo(f"{NAME}.SAFE/measurement/iw-vh.tiff")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    path = archive(tmp_path / "link.zip")
    with zipfile.ZipFile(path, "a") as zipped:
        zipped.writestr(link, "/etc/passwd")
    with pytest.raises(SceneRejected, match="a link or device"):
        open_layout(str(path))
    path = archive(tmp_path / "lzma.zip")
    with zipfile.ZipFile(path, "a") as zipped:
        zipped.writestr("a", b"x" * 100, compress_type=zipfile.ZIP_LZMA)
    with pytest.raises(SceneRejected, match="compressed in an unknown way"):
        open_layout(str(path))
    path = archive(tmp_path / "twice.zip")
    with zipfile.ZipFile(path, "a") as zipped, pytest.warns(UserWarning, match="Duplicate name"):
        zipped.writestr(f"{NAME}.SAFE/manifest.safe", b"other")
    with pytest.raises(SceneRejected, match="a name that occurs twice"):
        open_layout(str(path))


def test_bombs_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "bomb.zip")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("zeros", bytes(2**24))
    with pytest.raises(SceneRejected, match="unpacks to more than 200 times its size"):
        open_layout(str(path))
    path = archive(tmp_path / "many.zip", extra={f"{n}": b"" for n in range(MAX_MEMBERS)})
    with pytest.raises(SceneRejected, match="has 2005 members; at most 2000"):
        open_layout(str(path))


def test_what_is_no_product_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.zip").write_text("no zip")
    both = archive(tmp_path / "both.zip", extra={"other.SAFE/manifest.safe": b"x"})
    cut = archive(tmp_path / "cut.zip")
    os.truncate(cut, cut.stat().st_size // 2)
    for path, message in [
        (tmp_path / "gone", "does not exist"),
        (tmp_path / "empty", "has no manifest.safe"),
        (tmp_path / "text.zip", "neither a SAFE folder nor a zip"),
        (cut, "neither a SAFE folder nor a zip"),
        (both, "holds 2 manifest.safe"),
    ]:
        with pytest.raises(SceneRejected, match=message):
            open_layout(str(path))


def test_damaged_member_is_named(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.zip")
    data = path.read_bytes()
    at = data.index(b"<product/>")
    path.write_bytes(data[: at + 5] + b"?" + data[at + 6 :])
    with pytest.raises(SceneRejected, match=r"x.zip/.*iw-vv.xml cannot be read: Bad CRC-32"):
        open_layout(str(path)).fingerprint()


def test_link_out_of_a_folder_is_refused(tmp_path: Path) -> None:
    root = folder(tmp_path)
    (tmp_path / "secret").write_text("x")
    (root / "measurement" / "iw-vh.tiff").symlink_to(tmp_path / "secret")
    with pytest.raises(SceneRejected, match=r"iw-vh.tiff is a link that leaves the product"):
        open_layout(str(root))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_zip_is_read_or_rejected(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("zip") / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for inner in ("manifest.safe", "annotation/iw-vv.xml"):
            zipped.writestr(inner, FILES[inner])
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    try:
        layout = open_layout(str(path))
        for name in layout.sizes:
            layout.read(name)
    except SceneRejected:
        pass
