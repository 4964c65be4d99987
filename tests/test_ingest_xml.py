import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.scene import SceneRejected
from ingest.xml import MAX_BYTES, MAX_DEPTH, integer, number, numbers, parse, text

LAUGHS = b"""<!DOCTYPE lolz [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]><lolz>&b;</lolz>"""


@pytest.mark.parametrize(
    "data",
    [
        b"<!DOCTYPE product><product/>",
        b'<!DOCTYPE product SYSTEM "file:///etc/passwd"><product/>',
        b'<!DOCTYPE p [<!ENTITY x SYSTEM "file:///etc/hostname">]><p>&x;</p>',
        LAUGHS,
    ],
)
def test_a_document_type_is_refused(data: bytes) -> None:
    with pytest.raises(SceneRejected, match=r"annotation/iw-vv.xml carries a document type or entity"):
        parse(data, "annotation/iw-vv.xml")


def test_size_and_depth_are_bounded() -> None:
    with pytest.raises(SceneRejected, match=f"at most {MAX_BYTES} are parsed"):
        parse(b"<a>" + b" " * MAX_BYTES + b"</a>", "big.xml")
    assert parse(b"<a>" * MAX_DEPTH + b"</a>" * MAX_DEPTH, "deep.xml").tag == "a"
    with pytest.raises(SceneRejected, match="nests deeper than 1000"):
        parse(b"<a>" * (MAX_DEPTH + 1) + b"</a>" * (MAX_DEPTH + 1), "deep.xml")


@pytest.mark.parametrize("data", [b"", b"<a>", b"<a/><b/>", b"\xff\xfe", b"not xml", b"<?xml encoding='nope'?><a/>"])
def test_malformed_is_refused(data: bytes) -> None:
    with pytest.raises(SceneRejected, match=r"x.xml is not well-formed XML"):
        parse(data, "x.xml")


@given(st.binary(max_size=60) | st.text("<>/!?&;[]ab=\"' ", max_size=60).map(str.encode))
def test_any_bytes_parse_or_are_rejected(data: bytes) -> None:
    with contextlib.suppress(SceneRejected):
        parse(data, "x.xml")


def test_values_are_read_or_named() -> None:
    root = parse(b"<a><n>3</n><v count='3'>1 2.5 -3e-2</v><bad>1 x</bad><nan>1 NaN</nan><e> </e></a>", "x.xml")
    assert integer(root, "n", "x.xml") == 3
    assert number(root, "n", "x.xml") == 3.0
    assert numbers(root, "v", "x.xml").tolist() == [1.0, 2.5, -0.03]
    assert text(root, "n", "x.xml") == "3"
    for path, fault in [("bad", "is not numeric"), ("nan", "NaN"), ("e", "missing or empty"), ("zz", "missing")]:
        with pytest.raises(SceneRejected, match=f"x.xml: {path} .*{fault}"):
            numbers(root, path, "x.xml")
    with pytest.raises(SceneRejected, match="v has 3 values, expected 2"):
        numbers(root, "v", "x.xml", count=2)
    with pytest.raises(SceneRejected, match="expected an integer"):
        integer(root, "v", "x.xml")
