"""A page carries everything inside and lets nothing of its data become markup."""

import re

from infra.report import figure, page, section, table


def test_page_is_self_contained() -> None:
    text = page("A", "b", [section("S", figure(b"\x89PNG", "caption"))]).decode()
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    assert "<script" not in text
    assert 'src="data:image/png;base64,iVBORw=="' in text


def test_data_never_becomes_markup() -> None:
    text = table(("<b>",), [("<script>alert(1)</script>",)]) + section("<i>") + figure(b"", "<u>")
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert "<i>" not in text
    assert "<u>" not in text


def test_numbers_are_grouped_and_set_right() -> None:
    assert '<td class="number">1,234,567</td>' in table(("n",), [(1234567,)])
    assert '<td class="number">0.1235</td>' in table(("x",), [(0.12345678,)])
    assert '<td class="number">7</td>' in table(("n",), [("",), (7,)])  # an empty cell is no text
    assert "<td>True</td>" in table(("b",), [(True,)])


def test_numbers_among_texts_do_not_narrow_their_column() -> None:
    found = table(("what", "name", "n"), [("digest", "a8aae40b", 1), ("shards", 7, 2)])
    assert "<td>7</td>" in found
    assert '<td class="number">2</td>' in found
