"""Tables of speaker and text: a header line names the columns, and commas, tabs, semicolons or bars part them.

Without a header two columns are speaker and text.
"""

import csv
from collections.abc import Iterator

from stages.formats import fields
from stages.formats.fields import Row
from stages.formats.message import Format, Message, Options, Reject

DELIMITERS = ",\t;|"


def read(text: str, options: Options) -> Iterator[Message | Reject]:
    """The messages of the table; `line` is where its row begins."""
    delimiter, header = _header(text)
    rows: list[Row] = []
    rejects: list[Reject] = []
    reader = csv.reader((line + "\n" for line in text.split("\n")), delimiter=delimiter)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            rejects.append(Reject(line, "", f"expected a table row, got {error}"))
            continue
        if cells is None:
            break
        if not any(cell.strip() for cell in cells) or (header and line == 1):
            continue
        keys = header or ("name", "text")
        if len(cells) < len(keys) and not fields.is_message(dict(zip(keys, cells, strict=False))):
            rejects.append(Reject(line, delimiter.join(cells)[:200], f"expected {len(keys)} columns, got {len(cells)}"))
        else:
            rows.append(Row(line, dict(zip(keys, cells, strict=False))))
    yield from sorted((*fields.messages(rows), *rejects), key=lambda item: item.line)


def _header(text: str) -> tuple[str, tuple[str, ...]]:
    """The delimiter, and the column names if the first line names a text column."""
    first = text.partition("\n")[0]
    for delimiter in DELIMITERS:
        keys = tuple(cell.strip(' "').lower() for cell in first.split(delimiter))
        if len(keys) > 1 and any(key in fields.TEXTS for key in keys) and any(key in fields.NAMES for key in keys):
            return delimiter, keys
    return max(DELIMITERS, key=first.count), ()


def sniff(text: str) -> float:
    """Sure by its header."""
    return 0.9 if _header(text)[1] else 0.0


FORMAT = Format("csv", (".csv", ".tsv"), sniff, read)
