"""Word documents (.docx) that hold any form of plain script text, one message a paragraph.

`line` is the number of the paragraph in the body; a table row belongs to the paragraph before it, its cells become
tab-separated text, so a two-column table reads as name-tab.
"""

import io
import zipfile
from collections.abc import Iterator

import docx
from docx.table import Table
from lxml.etree import LxmlError

from stages.formats import prose, text
from stages.formats.message import Format, Message, Options, Reject
from stages.records import InputError

UNPACKED = 512 << 20  # bytes; the longest scripts take 20 MB
BREAK = "\v"  # a line break inside a paragraph, between the paragraphs' newlines


def document_text(name: str, data: bytes) -> str:
    """The paragraphs of a document, one a line; `name` is for the messages."""
    _check(name, data)
    try:
        document = docx.Document(io.BytesIO(data))
    except (ValueError, KeyError, LxmlError, zipfile.BadZipFile, NotImplementedError) as error:
        raise InputError(
            f"{name}: expected a Word document, got {error}\nhint: open it in Word, save it as .docx"
        ) from error
    paragraphs: list[str] = []
    for block in document.iter_inner_content():
        if isinstance(block, Table):
            rows = ("\t".join(cell.text.replace("\n", " ") for cell in row.cells) for row in block.rows)
            paragraphs[-1:] = [BREAK.join((*paragraphs[-1:], *rows))]
        else:
            paragraphs.append(block.text.replace("\r", "").replace("\n", BREAK))
    return "\n".join(paragraphs)


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


def read(paragraphs: str, options: Options) -> Iterator[Message | Reject]:
    """The messages, numbered by paragraph."""
    numbers = [
        number for number, paragraph in enumerate(paragraphs.split("\n"), 1) for _ in range(1 + paragraph.count(BREAK))
    ]
    lines = paragraphs.replace(BREAK, "\n")
    reader = prose if prose.sniff(lines) > text.sniff(lines) else text
    for item in reader.read(lines, options):
        yield item._replace(line=numbers[item.line - 1])


def sniff(paragraphs: str) -> float:
    """Never by its text: a document is known by its suffix."""
    return 0.0


FORMAT = Format("docx", (".docx",), sniff, read, text.survey)
