"""Tables of speaker and text: a header line names the columns, and commas, tabs, semicolons or bars part them.

Where none is called the text (ID,Speaker,English,Chinese), and without a header, it is the wordiest column; without a
header the one left of it that repeats itself most is the speaker. A choice that a header leaves open is told.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise

from stages.formats import fields
from stages.formats.fields import Row
from stages.formats.message import Format, Message, Options, Reject
from stages.formats.writings import words_in, writing_of

DELIMITERS = ",\t;|"
SEPARATOR = re.compile(r"sep=(.)")  # tells a spreadsheet program what parts the cells
HEADED = 3  # rows, the header among them: a title may stand above it
UNNAMED = 3  # rows without a name, and one of so many: where no name stands twice in a row, cells may have been merged

Table = list[tuple[int, list[str]]]


def read(text: str, options: Options) -> Iterator[Message | Reject]:
    """The messages of the table; `line` is where its row begins."""
    delimiter = _delimiter(text)
    table, rejects = _table(text, delimiter)
    items = [*rejects, *read_table(table, delimiter)]
    yield from sorted(items, key=lambda item: item.line)


def read_table(table: Table, delimiter: str = "\t") -> Iterator[Message | Reject]:
    """The messages of rows of cells, and what is to be said of them."""
    at = _header(table)
    body = table if at is None else table[at + 1 :]
    keys = _columns([cells for _, cells in body]) if at is None else _keys(table[at][1], [cells for _, cells in body])
    for line, cells in table[: at or 0]:
        yield Reject(line, delimiter.join(cells)[:200], "a row above the header of the table")
    rows: list[Row] = []
    for line, cells in body:
        values = dict(zip(keys, cells, strict=False))
        if len(cells) < len(keys) and not fields.is_message(values):
            yield Reject(line, delimiter.join(cells)[:200], f"expected {len(keys)} columns, got {len(cells)}")
        else:
            rows.append(Row(line, values))
    yield from fields.messages(rows)
    if at is not None:
        header = table[at][1]
        reasons = (_chosen(header, keys), _merged(header, keys, rows))
        yield from (Reject(table[at][0], delimiter.join(header)[:200], reason) for reason in reasons if reason)


def _table(text: str, delimiter: str) -> tuple[Table, list[Reject]]:
    """The rows that carry anything, with their lines."""
    table: Table = []
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
        if any(cell.strip() for cell in cells) and not (line == 1 and SEPARATOR.match(text)):
            table.append((line, cells))


# --- the header and its columns


def names_columns(table: Table) -> bool:
    """Whether a row of the table is its header."""
    return _header(table) is not None


def _header(table: Table) -> int | None:
    return next((at for at in range(min(HEADED, len(table))) if _is_header(table, at)), None)


def _is_header(table: Table, at: int) -> bool:
    """Whether a row names a speaker's column, and a text's, or one by a word that no other row has there."""
    header = table[at][1]
    bare = [fields.bare(cell) for cell in header]
    name = next((column for column, key in enumerate(bare) if key in fields.NAMES), None)
    if name is None or len(header) < 2:
        return False
    called = sum(fields.bare(cells[name]) == bare[name] for _, cells in table if name < len(cells))
    return called == 1 or any(key in fields.TEXTS for key in bare)


def _keys(header: list[str], rows: list[list[str]]) -> tuple[str, ...]:
    """The header as keys, each known one once: of 台词（中文） and 台词（英文） the one to be read."""
    bare = [fields.bare(cell) for cell in header]
    texts = [at for at, key in enumerate(bare) if key in fields.TEXTS]
    if not texts:
        name = next(at for at, key in enumerate(bare) if key in fields.NAMES)
        bare[_wordiest(rows, [at for at in range(len(bare)) if at != name])] = "text"
    for key in set(bare[at] for at in texts):
        read = _wordiest(rows, [at for at in texts if bare[at] == key])
        bare = [f"{key} {at}" if found == key and at != read else found for at, found in enumerate(bare)]
    return tuple(bare)


def _chosen(header: list[str], keys: tuple[str, ...]) -> str:
    """Which column is read, where the header leaves it open."""
    read = next((at for at, key in enumerate(keys) if key in fields.TEXTS), None)
    if read is None or [fields.bare(cell) for cell in header] == list(keys):
        return ""
    return (
        f"no column, or more than one, is called the text: `{header[read].strip()}` is read; call the right one `text`"
    )


def _merged(header: list[str], keys: tuple[str, ...], rows: list[Row]) -> str:
    """A word on cells without a name where names stand only at changes, as below a merged cell."""
    name = next(at for at, key in enumerate(keys) if key in fields.NAMES)
    names = [str(row.values.get(keys[name], "")).strip() for row in rows]
    if names.count("") < max(UNNAMED, len(names) / UNNAMED) or any(
        name and name == after for name, after in pairwise(names)
    ):
        return ""
    return (
        f"{names.count('')} rows have no name under `{header[name].strip()}` and are narration; "
        "where a merged cell stood there, write its name into each row"
    )


def _wordiest(table: list[list[str]], columns: Iterable[int]) -> int:
    """The column that says most; of those that say about as much, in two languages, the Chinese one."""
    texts = {at: [row[at].strip() for row in table if at < len(row)] for at in columns}
    words = {at: words_in(cells) for at, cells in texts.items()}
    most = max(words.values())
    return max(words, key=lambda at: (2 * words[at] >= most, writing_of("".join(texts[at])) == "Chinese", words[at]))


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


def _headed(text: str) -> str:
    """What parts the cells of the row that names a text and a name column; "" where no early row does."""
    for line in text.split("\n", HEADED)[:HEADED]:
        for delimiter in DELIMITERS:
            keys = {fields.bare(cell) for cell in line.split(delimiter)}
            if len(keys) > 1 and keys & set(fields.TEXTS) and keys & set(fields.NAMES):
                return delimiter
    return ""


def _delimiter(text: str) -> str:
    told = SEPARATOR.match(text)
    return _headed(text) or (told[1] if told else max(DELIMITERS, key=text.partition("\n")[0].count))


def sniff(text: str) -> float:
    """Sure by its header."""
    return 0.9 if _headed(text) else 0.0


FORMAT = Format("csv", (".csv", ".tsv"), sniff, read)
