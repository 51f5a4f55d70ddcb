"""Tables of speaker and text: a header line names the columns, and commas, tabs, semicolons or bars part them.

Where none is called the text (ID,Speaker,English,Chinese), and without a header, it is the wordiest column; without a
header the one left of it that repeats itself most is the speaker.
"""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator

from stages.formats import fields
from stages.formats.fields import Row
from stages.formats.message import Format, Message, Options, Reject

DELIMITERS = ",\t;|"


def read(text: str, options: Options) -> Iterator[Message | Reject]:
    """The messages of the table; `line` is where its row begins."""
    delimiter, header = _header(text)
    table, rejects = _table(text, delimiter)
    cells_only = [cells for _, cells in table]
    header = header or _header_of_names(cells_only)
    keys = header or _columns(cells_only)
    rows: list[Row] = []
    for line, cells in table[1:] if header else table:
        values = dict(zip(keys, cells, strict=False))
        if len(cells) < len(keys) and not fields.is_message(values):
            rejects.append(Reject(line, delimiter.join(cells)[:200], f"expected {len(keys)} columns, got {len(cells)}"))
        else:
            rows.append(Row(line, values))
    yield from sorted((*fields.messages(rows), *rejects), key=lambda item: item.line)


def _table(text: str, delimiter: str) -> tuple[list[tuple[int, list[str]]], list[Reject]]:
    """The rows that carry anything, with their lines."""
    table: list[tuple[int, list[str]]] = []
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
            return table, rejects
        if any(cell.strip() for cell in cells):
            table.append((line, cells))


def _header_of_names(table: list[list[str]]) -> tuple[str, ...]:
    """The columns where the first row calls one the speaker, by a word that no other row has there."""
    first, *rows = [[cell.strip().lower() for cell in row] for row in table] or [[]]
    name = next((at for at, key in enumerate(first) if key in fields.NAMES), len(first))
    if name == len(first) or len(first) < 2 or any(row[name : name + 1] == [first[name]] for row in rows):
        return ()
    words = _wordiest(rows, [at for at in range(len(first)) if at != name])
    return tuple("text" if at == words else key for at, key in enumerate(first))


def _wordiest(table: list[list[str]], columns: Iterable[int]) -> int:
    return max(columns, key=lambda at: sum(len(row[at].strip()) for row in table if at < len(row)))


def _columns(table: list[list[str]]) -> tuple[str, ...]:
    """Names for the columns of a table without a header."""
    width = Counter(map(len, table)).most_common(1)[0][0] if table else 0
    columns = [[row[at].strip() for row in table if at < len(row)] for at in range(width)]
    if width < 2:
        return ("text",)
    words = _wordiest(table, range(1, width))
    name = min(range(words), key=lambda at: (_numbers(columns[at]), len(set(columns[at]) - {""}) or len(table)))
    return tuple("name" if at == name else "text" if at == words else f"column {at}" for at in range(width))


def _numbers(column: list[str]) -> bool:
    return all(not cell or not any(map(str.isalpha, cell)) for cell in column)


def _header(text: str) -> tuple[str, tuple[str, ...]]:
    """The delimiter, and the column names if the first line names a text and a name column."""
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
