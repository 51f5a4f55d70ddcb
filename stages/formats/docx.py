"""Word documents (.docx) that hold any form of plain script text, one message a paragraph.

`line` is the number of the paragraph in the body; a table row belongs to the paragraph before it. A table with a header
or more than two columns is read as a table file is; of any other the cells become tab-separated text, name-tab.
"""

import io
import zipfile
from collections.abc import Iterator
from typing import NamedTuple

import docx
from docx.document import Document
from docx.exceptions import PythonDocxError
from docx.table import Table, _Cell
from lxml.etree import LxmlError

from stages.formats import csv, prose, text
from stages.formats.message import Format, Message, Options, Reject
from stages.records import InputError

UNPACKED = 512 << 20  # bytes; the longest scripts take 20 MB
COLUMNS = 63  # of a table, as many as Word makes
LONGEST_MERGED = 200  # characters; a longer cell over many rows is no name or scene, and is said once
BREAK = "\v"  # a line break inside a paragraph, between the paragraphs' newlines; also between the rows of a table
TABLE = "\f"  # where a table begins


def document_text(name: str, data: bytes) -> str:
    """The paragraphs of a document, one a line; `name` is for the messages."""
    _check(name, data)
    try:
        return "\n".join(_paragraphs(docx.Document(io.BytesIO(data))))
    except (
        ValueError,
        KeyError,
        RecursionError,
        LxmlError,
        PythonDocxError,
        zipfile.BadZipFile,
        NotImplementedError,
    ) as error:
        raise InputError(
            f"{name}: expected a Word document, got {error}\nhint: open it in Word, save it as .docx"
        ) from error


def _paragraphs(document: Document) -> list[str]:
    paragraphs: list[str] = []
    for block in document.iter_inner_content():
        if isinstance(block, Table):
            rows = map("\t".join, _rows(block))
            paragraphs[-1:] = ["".join((*paragraphs[-1:], TABLE, BREAK.join(rows)))]
        else:
            paragraphs.append(block.text.replace("\r", "").replace("\n", BREAK))
    return paragraphs


def _rows(table: Table) -> Iterator[list[str]]:
    """The texts of each row, a place for each column: a cell over columns fills the first, over rows all of them."""
    above: dict[int, str] = {}  # column -> what a cell over rows says
    for row in table.rows:
        texts, before = [], row.grid_cols_before
        for tc in row._tr.tc_lst:  # not row.cells: it climbs up to the first row of a merged cell from each of them
            text, column = " ".join(_Cell(tc, table).text.split()), before + len(texts)
            if tc.vMerge == "continue":
                text = above.get(column, "")
            else:
                above[column] = text if len(text) <= LONGEST_MERGED else ""
            texts += [text, *[""] * (min(tc.grid_span, COLUMNS) - 1)]
        yield texts


def _check(name: str, data: bytes) -> None:
    """Refuse what unpacks without bound (zipfile keeps to the sizes it declares) or brings its own XML entities."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as parts:
            size = sum(part.file_size for part in parts.infolist())
            if size > UNPACKED:
                raise InputError(f"{name}: expected at most {UNPACKED >> 20} MB unpacked, got {size >> 20} MB")
            for part in parts.infolist():
                if part.filename.endswith((".xml", ".rels")) and b"<!DOCTYPE" in parts.read(part)[:4096]:
                    raise InputError(f"{name}: expected plain Word XML, got a document type in {part.filename}")
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise InputError(
            f"{name}: expected a Word document, got {error}\nhint: open it in Word, save it as .docx"
        ) from error


class Numbered(NamedTuple):
    """A line of text, or the cells of a table, and the number of its paragraph."""

    number: int
    line: str
    table: csv.Table


def read(paragraphs: str, options: Options) -> Iterator[Message | Reject]:
    """The messages, numbered by paragraph."""
    parts = [part for number, paragraph in enumerate(paragraphs.split("\n"), 1) for part in _parts(number, paragraph)]
    lines = [part for part in parts if not part.table]
    plain = "\n".join(part.line for part in lines)
    reader, scenes = (prose, prose.Chapters) if prose.sniff(plain) > text.sniff(plain) else (text, text.Scenes)
    items = [item._replace(line=lines[item.line - 1].number) for item in reader.read(plain, options)]
    scene = scenes(part.line for part in lines)
    for part in parts:
        scene.mark(part.line.strip())
        items += (_placed(item, scene.name) for item in csv.read_table(part.table))
    yield from sorted(items, key=lambda item: item.line)


def _parts(number: int, paragraph: str) -> Iterator[Numbered]:
    """A paragraph's lines and the tables behind it."""
    head, *tables = paragraph.split(TABLE)
    yield from (Numbered(number, line, []) for line in head.split(BREAK))
    for rows in (table.split(BREAK) for table in tables):
        cells = [(number, row.split("\t")) for row in rows]
        if csv.names_columns(cells) or len(cells[0][1]) > 2:
            yield Numbered(number, "", cells)
        else:
            yield from (Numbered(number, row, []) for row in rows)


def _placed(item: Message | Reject, scene: str) -> Message | Reject:
    """In the scene of the paragraph, unless the table has its own."""
    return item._replace(scene=scene) if isinstance(item, Message) and not item.scene else item


def sniff(paragraphs: str) -> float:
    """Never by its text: a document is known by its suffix."""
    return 0.0


FORMAT = Format("docx", (".docx",), sniff, read, text.survey)
