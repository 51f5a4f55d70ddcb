"""Word documents: any plain form inside, numbered by paragraph; bombs and entities refused."""

import io
import zipfile

import docx
import pytest
from docx.table import _Cell

from stages.formats import Options
from stages.formats.docx import BREAK, COLUMNS, document_text, read
from stages.records import InputError

OPTIONS = Options({}, "", "", frozenset())


def document(*paragraphs: str, table: list[tuple[str, ...]] = ()) -> bytes:
    """A Word file of these paragraphs, with a table after them."""
    made = docx.Document()
    for paragraph in paragraphs:
        made.add_paragraph(paragraph)
    if table:
        cells = made.add_table(rows=len(table), cols=len(table[0]))
        for row, texts in zip(cells.rows, table, strict=True):
            for cell, text in zip(row.cells, texts, strict=True):
                cell.text = text
    out = io.BytesIO()
    made.save(out)
    return out.getvalue()


def repacked(data: bytes, part: str, content: bytes) -> bytes:
    """The same file with one part replaced."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, content if name == part else old.read(name))
    return out.getvalue()


def test_a_message_is_numbered_by_its_paragraph() -> None:
    text = document_text("a.docx", document("24/04/18", "", "夏生：早。", "亚托莉：早！\n她笑了。", "夏生：嗯。"))
    messages = list(read(text, OPTIONS))
    assert [(m.line, m.speaker, m.text, m.kind) for m in messages] == [
        (1, None, "24/04/18", "direction"),
        (3, "夏生", "早。", "speech"),
        (4, None, "亚托莉：早！", "narration"),
        (4, None, "她笑了。", "narration"),
        (5, "夏生", "嗯。", "speech"),
    ]


def test_a_break_inside_a_paragraph_parts_lines_of_the_same_number() -> None:
    text = document_text("a.docx", document("夏生：早。\n亚托莉：早！", "夏生：嗯。\n亚托莉：嗯！"))
    assert text.count(BREAK) == 2
    assert [(m.line, m.speaker) for m in read(text, OPTIONS)] == [
        (1, "夏生"),
        (1, "亚托莉"),
        (2, "夏生"),
        (2, "亚托莉"),
    ]


def test_a_table_of_names_and_texts_is_read() -> None:
    text = document_text("a.docx", document(table=[("夏生", "早。"), ("亚托莉", "早！"), ("夏生", "嗯。")]))
    assert [(m.speaker, m.text) for m in read(text, OPTIONS)] == [
        ("夏生", "早。"),
        ("亚托莉", "早！"),
        ("夏生", "嗯。"),
    ]


@pytest.mark.parametrize("header", [("角色", "台词"), ("序号", "角色", "台词")])
def test_a_table_under_a_header_is_read_by_its_columns_in_the_scene_above(header: tuple[str, ...]) -> None:
    rows = [(str(n), name, words)[-len(header) :] for n, (name, words) in enumerate([("夏生", "早。"), ("", "海静。")])]
    text = document_text("a.docx", document("第一章 初雪", "海很安静。", table=[header, *rows]))
    assert [(m.line, m.speaker, m.text, m.scene) for m in read(text, OPTIONS)] == [
        (1, None, "第一章 初雪", ""),
        (2, None, "海很安静。", ""),
        (2, "夏生", "早。", "第一章 初雪"),
        (2, None, "海静。", "第一章 初雪"),
    ]


def test_a_table_of_three_columns_without_a_header_is_read_by_what_they_hold() -> None:
    rows = [("1", "夏生", "早上好。"), ("2", "亚托莉", "早啊，先生！"), ("3", "夏生", "今天有雾。")]
    assert [(m.speaker, m.text) for m in read(document_text("a.docx", document(table=rows)), OPTIONS)] == [
        row[1:] for row in rows
    ]


def merged(rows: int, first: tuple[int, int], last: tuple[int, int], *texts: str) -> bytes:
    """A Word file with a table of three columns, the texts in each row, some cells of it merged."""
    made = docx.Document()
    table = made.add_table(rows=rows, cols=3)
    for row in table.rows:
        for tc, text in zip(row._tr.tc_lst, texts, strict=True):
            _Cell(tc, table).text = text
    table.cell(*first).merge(table.cell(*last)).text = "第一幕"
    out = io.BytesIO()
    made.save(out)
    return out.getvalue()


def test_a_cell_merged_over_rows_holds_for_each_however_many() -> None:
    rows = 40
    text = document_text("a.docx", merged(rows, (0, 0), (rows - 1, 0), "", "夏生", "早。"))
    assert text == "\f" + BREAK.join(["第一幕\t夏生\t早。"] * rows)


def test_a_cell_merged_over_columns_is_read_once_and_keeps_the_columns() -> None:
    text = document_text("a.docx", merged(2, (0, 0), (0, 1), "序", "夏生", "早。"))
    assert text == f"\f第一幕\t\t早。{BREAK}序\t夏生\t早。"


TALL = (
    '<w:tr><w:tc><w:tcPr><w:vMerge w:val="restart"/></w:tcPr><w:p><w:r><w:t>夏生</w:t></w:r></w:p></w:tc></w:tr>'
    + "<w:tr><w:tc><w:tcPr><w:vMerge/></w:tcPr><w:p/></w:tc></w:tr>" * 5000
)
WIDE = '<w:tr><w:tc><w:tcPr><w:gridSpan w:val="1000000000"/></w:tcPr><w:p/></w:tc></w:tr>'


@pytest.mark.parametrize(("rows", "breaks", "tabs"), [(TALL, 5000, 0), (WIDE, 0, COLUMNS - 1)])
def test_a_table_with_cells_merged_without_bound_is_read(rows: str, breaks: int, tabs: int) -> None:
    space = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    body = f'<w:document xmlns:w="{space}"><w:body><w:tbl>{rows}</w:tbl></w:body></w:document>'
    text = document_text("a.docx", repacked(document(""), "word/document.xml", body.encode()))
    assert (text.count(BREAK), text.count("\t")) == (breaks, tabs)


def test_a_table_that_is_nonsense_is_refused() -> None:
    data = document(table=[("夏生", "早。")])
    with zipfile.ZipFile(io.BytesIO(data)) as parts:
        body = parts.read("word/document.xml").replace(b"<w:tcPr>", b'<w:tcPr><w:gridSpan w:val="many"/>')
    with pytest.raises(InputError, match=r"a\.docx: expected a Word document"):
        document_text("a.docx", repacked(data, "word/document.xml", body))


def test_a_novel_in_word_is_read_as_prose() -> None:
    lines = ["夏生说：“早。”", "“早！”亚托莉说。", "夏生问：“冷吗？”", "亚托莉答：“不冷。”"]
    messages = list(read(document_text("a.docx", document(*lines)), OPTIONS))
    assert [(m.speaker, m.text) for m in messages if m.kind == "speech"][:2] == [("夏生", "早。"), ("亚托莉", "早！")]


def test_a_file_that_is_no_zip_is_refused() -> None:
    with pytest.raises(InputError, match=r"a\.docx: expected a Word document"):
        document_text("a.docx", b"\xd0\xcf\x11\xe0 old Word")


def test_a_zip_that_is_no_document_is_refused() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as parts:
        parts.writestr("readme.txt", "hello")
    with pytest.raises(InputError, match=r"a\.docx: expected a Word document"):
        document_text("a.docx", out.getvalue())


def test_a_broken_document_is_refused() -> None:
    whole = document("夏生：早。")
    with pytest.raises(InputError, match=r"a\.docx: expected a Word document"):
        document_text("a.docx", repacked(whole, "word/document.xml", b"<w:document"))
    with pytest.raises(InputError, match=r"a\.docx: expected a Word document"):
        document_text("a.docx", whole[: len(whole) // 2])


def test_a_zip_bomb_is_refused_before_it_is_unpacked() -> None:
    bomb = repacked(document("夏生：早。"), "word/document.xml", b"\0" * (520 << 20))
    assert len(bomb) < 2 << 20
    with pytest.raises(InputError, match="expected at most 512 MB unpacked, got 520 MB"):
        document_text("a.docx", bomb)


def test_own_entities_are_refused() -> None:
    laughs = b'<?xml version="1.0"?><!DOCTYPE d [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><d>&b;</d>'
    with pytest.raises(InputError, match=r"got a document type in word/document\.xml"):
        document_text("a.docx", repacked(document("夏生：早。"), "word/document.xml", laughs))
