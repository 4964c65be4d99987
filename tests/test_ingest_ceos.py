from pathlib import Path

import numpy as np
import pytest
from alos2_products import LINE_BYTES, LINES, PIXELS, PRODUCT, patch, small

from ingest.ceos import MAX_RECORDS, PREAMBLE, Fields, ImageFile, ImageLayout, read_layout, read_records
from ingest.scene import SceneRejected, Window

SAMPLE = Path("alos2") / "l15_ceos"


def record(kind: int, length: int, body: bytes = b"") -> bytes:
    return (PREAMBLE.pack(1, 18, kind, 18, 20, length) + body).ljust(length, b" ")


def test_the_real_leader_is_walked_to_its_end(shared_data):
    kinds = frozenset(((18, 10), (18, 20), (18, 50)))
    found = read_records(shared_data / SAMPLE / f"LED-{PRODUCT}", kinds)
    assert [(kind, len(fields.data)) for kind, fields in found] == [
        ((18, 10), 4096),
        ((18, 20), 1620),
        ((18, 50), 9860),
    ]


def test_the_real_volume_directory_points_to_four_files(shared_data):
    found = read_records(shared_data / SAMPLE / f"VOL-{PRODUCT}", frozenset(((219, 192),)))
    assert [fields.text(64, 68) for _, fields in found] == ["SARL", "IMOP", "IMOP", "SART"]


@pytest.mark.parametrize("band", ["HH", "HV"])
def test_the_real_image_descriptors(shared_data, band):
    layout = read_layout(shared_data / SAMPLE / f"IMG-{band}-{PRODUCT}")
    assert layout == ImageLayout(lines=LINES, pixels=PIXELS, line_bytes=LINE_BYTES, prefix_bytes=192)


def test_fields_are_read_from_their_columns():
    fields = Fields("x", b"ab   -83.0000000   12 1.5D+02")
    assert fields.text(0, 4) == "ab"
    assert fields.number(4, 16, "cf") == -83.0
    assert fields.integer(16, 21, "n") == 12
    assert fields.number(21, 29, "d") == 150.0


@pytest.mark.parametrize("text", ["    ", " NAN", "1_00", "inf ", "1e9999999", "0x10", "٣", "--1", "1 2", "1e400"])
def test_what_is_not_a_number_is_named(text):
    data = text.encode().ljust(10)
    with pytest.raises(SceneRejected, match="gives the factor as"):
        Fields("LED record 50", data).number(0, len(data), "the factor")


@pytest.mark.parametrize("text", ["    ", "NAN ", "1.0 ", "1e3 ", "1_0 ", "9" * 19])
def test_what_is_not_an_integer_is_named(text):
    with pytest.raises(SceneRejected, match="expected an integer"):
        Fields("LED", text.encode()).integer(0, len(text), "the zone")


def test_a_field_beyond_its_record_is_named():
    with pytest.raises(SceneRejected, match="has 4 bytes, expected at least 8"):
        Fields("LED", b"abcd").text(0, 8)


@pytest.mark.parametrize("length", [0, 11, 101, 2**31, 2**32 - 1])
def test_a_record_of_impossible_length_is_refused(tmp_path, length):
    path = tmp_path / "LED"
    path.write_bytes(PREAMBLE.pack(1, 18, 10, 18, 20, length).ljust(100, b" "))
    with pytest.raises(SceneRejected, match=f"a record of {length} bytes at byte 0 where 100 bytes remain"):
        read_records(path, frozenset(((18, 10),)))


def test_a_file_that_ends_within_a_preamble_is_truncated(tmp_path):
    path = tmp_path / "LED"
    path.write_bytes(record(10, 100) + b"\0" * 5)
    with pytest.raises(SceneRejected, match="ends within a record at byte 100"):
        read_records(path, frozenset(((18, 10),)))


def test_endless_small_records_are_refused(tmp_path):
    path = tmp_path / "LED"
    path.write_bytes(record(10, 12) * (MAX_RECORDS + 1))
    with pytest.raises(SceneRejected, match="more than 256 records"):
        read_records(path, frozenset(((18, 10),)))


def test_a_huge_header_is_not_read_but_a_huge_data_record_is_stepped_over(tmp_path):
    path = tmp_path / "LED"
    path.write_bytes(record(200, 1 << 17) + record(10, 100, b"text"))
    assert len(read_records(path, frozenset(((18, 10),)))) == 1
    with pytest.raises(SceneRejected, match="a header of 131072 bytes"):
        read_records(path, frozenset(((18, 200),)))


@pytest.mark.parametrize(
    ("at", "text", "message"),
    [
        (428, "C*8 ", "format 'C\\*8'"),
        (216, "  32", "32 bits"),
        (268, "BIL ", "'BIL'"),
        (236, "      -1", "impossible sizes"),
        (236, "99999999", "impossible sizes"),
        (248, "       0", "impossible sizes"),
        (248, "   12871", "contradicts itself"),
        (186, " 25930", "contradicts itself"),
        (186, "999999", "contradicts itself"),
        (180, "     1", "1 records for 13161 lines"),
        (276, " 100", "contradicts itself"),
        (276, "   0", "impossible sizes"),
        (280, "   25741", "contradicts itself"),
        (288, "  -1", "impossible sizes"),
        (236, " " * 8, "the number of lines as ''"),
    ],
)
def test_a_descriptor_that_cannot_be_is_refused(shared_data, tmp_path, at, text, message):
    path = tmp_path / "IMG"
    path.write_bytes((shared_data / SAMPLE / f"IMG-HH-{PRODUCT}").read_bytes())
    patch(path, at, text)
    with pytest.raises(SceneRejected, match=message):
        read_layout(path)


def test_an_image_of_headers_only_is_truncated(shared_data):
    with pytest.raises(SceneRejected, match=r"is truncated: 720 bytes for 13161 lines .* expected 341291772"):
        ImageFile(shared_data / SAMPLE / f"IMG-HH-{PRODUCT}")


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(SceneRejected, match=str(path)):
            read_layout(path)


def test_a_line_of_another_length_is_found(shared_data, tmp_path):
    folder = small(shared_data, tmp_path, 8, 5)
    path = folder / f"IMG-HH-{PRODUCT}"
    patch(path, 720 + 3 * 202 + 8, b"\0\0\0\0")
    image = ImageFile(path)
    ((rows, found),) = image.blocks(Window(0, 1, 3, 2))
    assert rows == slice(0, 3)
    assert found.shape == (3, 2)
    assert found.dtype == np.dtype(">u2")
    with pytest.raises(SceneRejected, match="line 3 says that it has 0 bytes, expected a record length of 202"):
        list(image.blocks(Window(2, 0, 3, 5)))
    image.close()
    image.close()


def test_a_file_cut_while_it_is_open_is_found(shared_data, tmp_path):
    path = small(shared_data, tmp_path, 8, 5) / f"IMG-HH-{PRODUCT}"
    image = ImageFile(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(SceneRejected, match="ends after 1000 bytes"):
        list(image.blocks(Window(0, 0, 8, 5)))
    image.close()
