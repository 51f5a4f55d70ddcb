"""KiriKiri KAG scenarios (.ks): text between tags, grouped into messages by the tag that ends one.

KAG itself has no way to say who speaks; each game has its own macro. So the name and the end of a message are patterns:
the first is tried where a tag or a run of text begins (its group: the name; empty: nobody), the second on a tag's name.
"""

from collections.abc import Iterator, Mapping
from html import unescape

import regex

from stages.formats.kag_macros import ENDS, MACRO, SHOWN, survey
from stages.formats.kag_tags import CORE, END, NAME, PRINTS, TYRANO, Piece, pieces, printed, value_of
from stages.formats.kinds import WIDE_SIGN, head_lines, said
from stages.formats.message import Format, Message, Options, Reject

CLEARED = regex.compile(r"[\[@](?:nm|name|whosay)[ \t]+(?:name|t|text|n)[ \t]*=[ \t]*(?:\"\"|'')")
SAVE_POINT = regex.compile(r"(?:page)?\d*\Z")  # `*|`, `*page3|`, `*6116|` are places to save, not scenes
HTML = regex.compile(r"</?[a-zA-Z][^<>]*+>")  # in the text of a button
MARGIN = " \t\u3000"


class Page:
    """The message that is being put together, and the speaker, scene and choice it stands in."""

    def __init__(self, end: str, names: Mapping[str, str], keeps_speaker: bool, text: str) -> None:
        self.end, self.names, self.keeps_speaker = regex.compile(end), names, keeps_speaker
        ends = "|".join([end, *(regex.escape(name.removeprefix(ENDS)) for name in names if name.startswith(ENDS))])
        # no tag ends a message: each line does
        self.by_line = not regex.search(rf"(?i)[\[@](?:{ends})(?=[\s\]]|\Z)", text)
        self.speaker: str | None = None
        self.scene = ""
        self.parts: list[str] = []
        self.first = self.last = 0  # lines of the message's first and last text
        self.choice: str | None = None  # between [link] and [endlink]
        self.in_macro = ""  # its name; what a definition prints, it prints where the macro is used

    def take(self, piece: Piece) -> Iterator[Message | Reject]:
        """Add a piece; yield what it completes."""
        if piece.kind == "text" and MACRO + self.in_macro in self.names:
            return  # the brackets around the name that it prints
        if piece.kind == "text":
            if self.by_line and piece.number != self.last:
                yield from self.finish()
            self.add(piece.value, piece.number)
        elif piece.kind == "label":
            yield from self.finish()
            self.speaker = None
            self.scene = self.scene if SAVE_POINT.match(piece.value) else piece.value
        elif piece.kind == "bad":
            yield Reject(piece.number, piece.value, "expected ] to close a tag")
        elif piece.kind == "tag":
            yield from self.tag(piece)

    def tag(self, piece: Piece) -> Iterator[Message]:
        name = piece.value
        if name in ("macro", "endmacro"):
            yield from self.finish()
            self.in_macro = piece.attributes().get("name", name).lower() if name == "macro" else ""
        elif name == "r":
            self.last = 0
        elif (shown := self.shown(piece)) is not None:
            self.add("" if self.in_macro else shown, piece.number)
        elif name == "link":
            yield from self.finish()
            self.choice = ""
        elif name == "endlink" and self.choice is not None:
            yield from self.chosen(piece.number, self.choice)
            self.choice = None
        elif self.end.fullmatch(name) or ENDS + name in self.names:
            yield from self.finish()
            self.speaker = self.speaker if self.keeps_speaker else None
        elif {"target", "storage"} & (values := piece.attributes()).keys() and (
            label := values.get("text") or values.get("txt")
        ):
            yield from self.finish()
            yield from self.chosen(piece.number, label)

    def shown(self, piece: Piece) -> str | None:
        """What a tag prints: a variable, a text, or what the macro of that name prints."""
        if piece.value in PRINTS:
            return printed(piece)
        return self.names.get(SHOWN + piece.value)

    def chosen(self, number: int, text: str) -> Iterator[Message]:
        if text := unescape(HTML.sub(" ", text)).replace("\xa0", " ").strip():
            yield Message(number, None, text, "choice", self.scene)

    def add(self, text: str, number: int) -> None:
        """Lines of one message are joined: with a space between Latin letters, with nothing beside wide ones."""
        if self.choice is not None:
            self.choice += text
            return
        if number != self.last:
            text = text.lstrip(MARGIN)
            if self.parts and text and not WIDE_SIGN.match(self.parts[-1][-1]) and not WIDE_SIGN.match(text):
                text = " " + text
        if not text:
            return
        self.first = self.first if self.parts else number
        self.parts.append(text)
        self.last = number

    def finish(self) -> Iterator[Message]:
        text = "".join(self.parts).strip()
        self.parts, self.last = [], 0
        if text:
            yield said(self.first, self.speaker, text, self.scene)


def read(text: str, options: Options) -> Iterator[Message | Reject]:
    """Yield the messages in file order; one that no tag ends, ends at the next name, label or choice."""
    # アトリ「おはよう」 is prose in most games; in one that names so,
    # kag_name: '([^\s「」『』\[\]【】、。…（）]{1,10})(?=[「『])'
    pattern = regex.compile(options.kag_name or NAME)
    page = Page(options.kag_end or END, options.names, bool(CLEARED.search(text)), text)
    named_line, named_end = 0, 0
    for piece in pieces(text):
        if piece.number == named_line and piece.start < named_end:  # [ns]name[nse], 【name】text
            rest = piece.line[named_end : piece.end]
            if piece.kind != "text" or not rest:
                continue
            piece = piece._replace(value=rest)
        elif (named := name_at(pattern, piece, options.names)) and not page.in_macro:
            yield from page.finish()
            page.speaker = named[0] or None
            named_line, named_end = piece.number, named[1]
            if piece.kind == "tag":
                continue
            piece = piece._replace(value=piece.line[named_end : piece.end])
        yield from page.take(piece)
    yield from page.finish()


def name_at(pattern: regex.Pattern[str], piece: Piece, names: Mapping[str, str]) -> tuple[str, int] | None:
    """The speaker and where the name ends in the line, if one begins at the piece."""
    if piece.kind not in ("tag", "text"):
        return None
    macro = names.get(MACRO + piece.value) if piece.kind == "tag" else None
    if macro is not None:
        return piece.attributes().get(macro[1:], "") if macro.startswith("%") else macro, piece.end
    if piece.kind == "text" and piece.start and piece.line[piece.start - 1] != "]":
        return None
    found = pattern.match(piece.line, piece.start)
    return (value_of(found[found.lastindex or 0] or ""), found.end()) if found else None


NANINOVEL = regex.compile(r"@\w+.*\s\w+:\S")  # parameters with a colon
MARKED = regex.compile(r"[@\[][^\s\[\]@]|\*\S|\*\||;|.*\]\Z")


def sniff(text: str) -> float:
    """The share of lines with marks of KAG; less where they may as well be TyranoScript's."""
    marked, tyrano = marks(text)
    return marked / 2 if tyrano else marked


def marks(text: str) -> tuple[float, bool]:
    """How much looks like a scenario of tags, 0 to 1, and whether any of it is TyranoScript's alone."""
    lines = [line.strip() for line in head_lines(text)]
    tyrano = any(TYRANO.match(line) for line in lines)
    core = any(CORE.search(line) for line in lines)
    equal_signs = sum(line[0] in "@[" and "=" in line for line in lines)
    if not core or equal_signs < sum(bool(NANINOVEL.match(line)) for line in lines):
        return 0.0, tyrano
    return min(1.0, 1.5 * sum(bool(MARKED.match(line)) for line in lines) / len(lines)), tyrano


FORMAT = Format("kag", (".ks",), sniff, read, survey, heir="tyrano")  # not every file of such a game shows its engine
