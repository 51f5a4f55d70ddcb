"""KiriKiri KAG scenarios (.ks): text between tags, grouped into messages by the tag that ends one.

KAG itself has no way to say who speaks; each game has its own macro. So the name and the end of a message are patterns:
the first is tried where a tag or a run of text begins (its group: the name; empty: nobody), the second on a tag's name.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from html import unescape
from typing import NamedTuple

import regex

from stages.formats.kinds import kind_of
from stages.formats.message import Format, Message, Options, Reject

# [nm name="x"], @nm t=x, [nm_x], [ns]x[nse], 【x】, @【x】, and before a quote a macro of no Latin name.
# アトリ「おはよう」 is prose in most games; in one that names so,
# kag_name: '([^\s「」『』\[\]【】、。…（）]{1,10})(?=[「『])'
TAGS = r"nm|name|namae|talk|speak|speaker|serif|whosay|msg|mes|message|chara_ptext"
NAME = (
    rf"(?i)[\[@](?:{TAGS})(?=[\s\]])"
    r"[^\]\n]*?\b(?:name|text|t|n|who)\s*=\s*(?:\"([^\"\n]*)\"|'([^'\n]*)'|([^\s\"'\]]*))"
    r"|[\[@]npc(?=\s)[^\]\n]*?\bid\s*=\s*(?:\"([^\"\n]*)\"|'([^'\n]*)'|([^\s\"'\]]*))"
    r"|[\[@]nm_([^\s\]]+)|\[ns\](?=[^\[\n]+\[nse\])([^\[]+)|@?【([^【】\n]*+)】"
    r"|\[(?=[^\x00-\x7f][^\[\]\n]*+\][「『])([^\[\]\s]+)"
)
END = r"(?i:n?p|pg|page|[lr]{0,2}(?:pcms?|cm)|pcms_sel|ct|er|en|fc|vp|ml|plc|endmessage|endpage|hitret|s)"
CLEARED = regex.compile(r"[\[@](?:nm|name|whosay)[ \t]+(?:name|t|text|n)[ \t]*=[ \t]*(?:\"\"|'')")

PART = regex.compile(
    r"(\[\[)|\[([^\x00-\x7f][^\[\]\s'=]*+)'[^\[\]'\s]++\]|\[((?:[^\[\]\"']++|\"[^\"]*+\"|'[^']*+'|\[[^\[\]]*+\])*+)\]"
)
UNQUOTED = regex.compile(  # the same groups; a tag with a quotation mark too many
    r"()()\[([^\[\]]*+(?:\[[^\[\]]*+(?:\[[^\[\]]*+\][^\[\]]*+)*+\][^\[\]]*+)*+)\]"
)
TAG = regex.compile(r"[ \t]*+([^\s=\]]++)")
ATTRIBUTE = regex.compile(r"(?<![^\s\"'])([^\s=\"'\[\]]++)\s*+=\s*+(\"[^\"]*+\"|'[^']*+'|[^\s\"']++)")
HIDDEN = {"iscript": "endscript", "html": "endhtml"}  # code: nothing of it is read out
SAVE_POINT = regex.compile(r"(?:page)?\d*\Z")  # `*|`, `*page3|`, `*6116|` are places to save, not scenes
WIDE = regex.compile(r"[\u2e80-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff00-\uffef]")
HTML = regex.compile(r"</?[a-zA-Z][^<>]*+>")  # in the text of a button
COMPUTES = regex.compile(r"[;=]|\+\+|--")
MARGIN = " \t\u3000"


class Piece(NamedTuple):
    """A tag, a run of text, a label, a speaker line or what could not be read, and where it stands."""

    kind: str  # tag, text, label, speaker, bad
    value: str  # the tag's name, the text, the label's name, the speaker
    number: int  # of the line
    line: str
    start: int  # in the line
    end: int

    def attributes(self) -> dict[str, str]:
        """`a=1 b="two"` of a tag; a value that is an expression, `&f.name`, becomes `{f.name}`."""
        inner_end = self.end - (self.line[self.end - 1] == "]")
        return {name.lower(): value_of(value) for name, value in ATTRIBUTE.findall(self.line, self.start, inner_end)}


def value_of(value: str) -> str:
    value = (value[1:-1] if value[:1] in ("'", '"') else value).strip()
    return f"{{{value[1:].strip()}}}" if value.startswith("&") else value


def pieces(text: str, tyrano: bool = False) -> Iterator[Piece]:
    """Cut a scenario into pieces, without comments and scripts."""
    until = ""
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip(" \t\r").removesuffix("\\")  # the sign that a newline does not count
        if until:
            until = "" if _ends(line, until) else until
        elif tyrano and line.startswith("/*"):
            until = "" if "*/" in line else "*/"
        elif line:
            for piece in _line(number, line, tyrano):
                if piece.kind == "tag" and piece.value in HIDDEN:
                    until = HIDDEN[piece.value]
                    if not _ends(line[piece.end :], until):
                        break
                    until = ""
                yield piece


def _ends(line: str, tag: str) -> bool:
    line = line.lower()
    return tag in line and (tag == "*/" or f"[{tag}" in line or line.startswith("@" + tag))


def _line(number: int, line: str, tyrano: bool) -> Iterator[Piece]:
    first, whole = line[0], (number, line, 0, len(line))
    if first == ";":
        return
    if first == "*" and len(line) > 1:
        yield Piece("label", line[1:].partition("|")[0].strip(), *whole)
    elif first == "@" and (found := TAG.match(line, 1)):
        yield Piece("tag", found[1].lower(), *whole)  # KAG takes capitals for small letters
    elif first == "#" and tyrano:
        yield Piece("speaker", line[1:].strip(), *whole)
    else:
        yield from _inline(number, line, int(tyrano and first == "_"))


def _inline(number: int, line: str, at: int) -> Iterator[Piece]:
    while at < len(line):
        tag_at = line.find("[", at)
        text_end = len(line) if tag_at < 0 else tag_at
        if text_end > at:
            yield Piece("text", line[at:text_end], number, line, at, text_end)
        if tag_at < 0:
            return
        found = PART.match(line, tag_at) or UNQUOTED.match(line, tag_at)
        if not found:
            yield Piece("bad", line[tag_at:], number, line, tag_at, len(line))
            return
        at = found.end()
        if found[1]:
            yield Piece("text", "[", number, line, at - 1, at)
        elif found[2]:  # [base'ruby]
            yield Piece("text", found[2], number, line, tag_at, at)
        elif tag := TAG.match(found[3]):
            yield Piece("tag", tag[1].lower(), number, line, tag_at, at)
            if COMMENTED.match(line, tag_at):
                return


class Page:
    """The message that is being put together, and the speaker, scene and choice it stands in."""

    def __init__(self, end: str, names: Mapping[str, str], keeps_speaker: bool, text: str) -> None:
        self.end, self.names, self.keeps_speaker = regex.compile(end), names, keeps_speaker
        ends = "|".join([end, *(regex.escape(name.removeprefix(ENDS)) for name in names if name.startswith(ENDS))])
        self.by_line = not regex.search(
            rf"(?i)[\[@](?:{ends})(?=[\s\]]|\Z)", text
        )  # no tag ends a message: each line does
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
        if piece.value in ("emb", "ch"):
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
            if self.parts and text and not WIDE.match(self.parts[-1][-1]) and not WIDE.match(text):
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
            yield Message(self.first, self.speaker, text, kind_of(self.speaker, text), self.scene)


def read(text: str, options: Options) -> Iterator[Message | Reject]:
    """Yield the messages in file order; one that no tag ends, ends at the next name, label or choice."""
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


def printed(piece: Piece) -> str:
    """The text of `[ch]`, and `{f.name}` for an `[emb]` of a value; one that computes prints what nobody can know."""
    values = piece.attributes()
    expression = values.get("exp", "")
    return values.get("text") or ("" if not expression or COMPUTES.search(expression) else f"{{{expression}}}")


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


# What the survey learns from a folder's macros, under these prefixes and the macro's name:
MACRO = "macro:"  # the speaker that it sets, or `%x`: the speaker that its call gives as x
ENDS = "ends:"  # it ends a message
SHOWN = "shown:"  # the text that it prints
BODY = 4000  # characters of a definition that are looked at
MACRO_SIGN = regex.compile(r"(?i)[\[@](?:end)?macro\b")
DEFINITION = regex.compile(r"(?i)[\[@]macro[ \t]+name[ \t]*=[ \t]*[\"']?([^\s\"'\]]+)[\"']?[ \t]*\]?")
COMMENTED = regex.compile(r"(?i)\[(?:s|return|jump(?:[ ](?![^\]\n]*\bcond)[^\]\n]*)?)\][ \t]*;")  # nobody comes there
PRINTS = ("emb", "ch")
QUOTED = regex.compile(r"^[ \t\u3000]*+[「『]", regex.MULTILINE)
CARRIED = regex.compile(r"%(\w+)(?:\|.*)?|\{?&?mp\.(\w+)\}?")
VALUE = regex.compile(r"\{([\w.]+)\}")
NAMED = regex.compile(rf"(?i)[\[@](?:(?:{TAGS}|npc)(?=[\s\]])|nm_)|\[ns\]|【|^#\S", regex.MULTILINE)
WRITTEN = regex.compile(r"【([^【】\n]++)】")
ASSIGNED = regex.compile(r"([\w.]++)\s*+=\s*+(?:'([^'\n]*+)'|\"([^\"\n]*+)\")")
# A tag right before a quotation, where a game has no name tag known by its name.
BEFORE_TEXT = regex.compile(
    r"(?:^@([^\s\[\]=]++)([^\n]*+)\n|\[([^\s\[\]=]++)([^\[\]\n]*+)\](?:\n|\[r\]\n)?+)[ \t\u3000]*+([^\s\[\];*@])",
    regex.MULTILINE,
)
OWN_LINE = regex.compile(r"^@([^\x00-\x7f][^\s\[\]=]*+)", regex.MULTILINE)
NVL_MAKER = regex.compile(
    r"^@(?:npc[ \t]+id|dia\b)|\[npc[ ]+(?:\*[ ]+)?id", regex.MULTILINE
)  # its names need no quotes; [w] ends a page
CARRIERS = ("name", "text", "t", "n", "who", "chara", "character", "speaker", "talker")
QUOTATION = '「『“"（'
SOME = 3  # calls that are no accident


def survey(texts: Iterable[str]) -> dict[str, str]:
    """What the macros of all files do, as far as it concerns messages."""
    names: dict[str, str] = {}
    silent: set[str] = set()
    calls: Counter[tuple[str, str, bool]] = Counter()
    lines: Counter[str] = Counter()  # calls that are a line of their own, of macros without a Latin name
    known = quotations = 0
    pattern, end = regex.compile(NAME), regex.compile(END)
    for text in texts:
        for found in DEFINITION.finditer(text):
            body = MACRO_SIGN.split(text[found.end() : found.end() + BODY], maxsplit=1)[0]
            parts, name = list(pieces(body, tyrano=True)), found[1].lower()
            for effect, value in _effects(parts, pattern, end):
                names.setdefault(effect + name, value)
            if all(part.kind == "tag" and part.value not in PRINTS for part in parts):
                silent.add(name)
        known += sum(1 for _ in NAMED.finditer(text))
        quotations += len(QUOTED.findall(text))
        calls.update(_calls(text))
        lines.update(map(str.lower, OWN_LINE.findall(text)))
        if NVL_MAKER.search(text):
            names[ENDS + "w"] = ""
    if known * 4 < quotations or ENDS + "w" in names:
        for tag, carrier in _name_tags(calls, lines if ENDS + "w" in names else Counter()):
            if tag not in silent:
                names.setdefault(MACRO + tag, carrier)
    return names


def _calls(text: str) -> Iterator[tuple[str, str, bool]]:
    """Tags before text: tag, `%x` for its attribute x that may carry a name, else the tag as written, quotation?"""
    for found in BEFORE_TEXT.finditer(text):
        written, inner = found[1] or found[3], found[2] or found[4] or ""
        tag, quoted = written.lower(), found[5] in QUOTATION
        given = {name.lower() for name, _ in ATTRIBUTE.findall(inner)}
        if carrier := next((name for name in CARRIERS if name in given), ""):
            yield tag, "%" + carrier, quoted
        elif not tag[0].isascii():
            yield tag, written, quoted


def _name_tags(calls: Counter[tuple[str, str, bool]], lines: Counter[str]) -> Iterator[tuple[str, str]]:
    """Tags that mostly stand before a quotation, or, of those in `lines`, before any text; and who speaks then."""
    for tag, carrier in dict.fromkeys((tag, carrier) for tag, carrier, _ in calls):
        quoted, others = calls[tag, carrier, True], calls[tag, carrier, False]
        before_text = lines[tag] and quoted + others >= SOME and (quoted + others) * 3 >= lines[tag] * 2
        engine = CORE.match("@" + tag) or TYRANO.match("@" + tag)
        if not engine and (before_text or (quoted >= SOME and quoted > 2 * others)):
            yield tag, carrier


def _effects(parts: list[Piece], name: regex.Pattern[str], end: regex.Pattern[str]) -> Iterator[tuple[str, str]]:
    tags = [part for part in parts if part.kind == "tag"]
    speakers = [part.value for part in parts if part.kind == "speaker"]
    speakers += [found[found.lastindex or 0] for tag in tags if (found := name.match(tag.line, tag.start))]
    speakers += _printed_names(parts)
    if speakers and speakers[0]:
        yield MACRO, _macro_speaker(speakers[0])
    if any(end.fullmatch(tag.value) for tag in tags):
        yield ENDS, ""
    elif tags and all(part.kind == "tag" and part.value in PRINTS for part in parts):
        yield SHOWN, "".join(map(printed, tags))


def _printed_names(parts: list[Piece]) -> list[str]:
    """The name that a macro prints: in 【】, or alone in a message layer of its own; its variables with their value."""
    shown = "".join(_shown(part) for part in parts).strip()
    values: dict[str, str] = {}
    for part in parts:
        if part.value == "eval":
            found = ASSIGNED.findall(part.attributes().get("exp", ""))
            values.update({name: one or other for name, one, other in found})
    alone = any(part.value == "current" for part in parts) and CARRIED.fullmatch(shown)
    if alone or WRITTEN.fullmatch(shown):
        return [VALUE.sub(lambda value: values.get(value[1]) or value[0], shown.strip("【】"))]
    return []


def _shown(part: Piece) -> str:
    return part.value if part.kind == "text" else printed(part) if part.value in PRINTS else ""


def _macro_speaker(name: str) -> str:
    """A name as it is; of `%x`, `&mp.x` the attribute that carries it; of any other variable, `name`."""
    if carried := CARRIED.match(name):
        return "%" + (carried[1] or carried[2]).lower()
    return "%name" if name.startswith("&") else name


CORE = regex.compile(
    r"(?i)[\[@](?:r|l|p|cm|lr|pcm|pg|ct|er|s|wait|jump|call|return|eval|if|else|endif|image|trans|wt|backlay|playbgm|stopbgm|fadeoutbgm"
    r"|playse|link|endlink|font|resetfont|ruby|emb|ch|nm|layopt|position|current|macro|iscript|endmessage|hitret|talk|button|locate|history|rclick|title|edit|video|hact|style|nowait|delay|clickskip|keyframe|frame|endkeyframe)(?=[\s\]]|\Z)"
)
TYRANO = regex.compile(
    r"#(?:\S|\Z)|[\[@](?:chara_(?:new|show|hide|mod|face|config|ptext|part|move|layer|delete)|glink|_?tb_\w+|mtext|kanim|keyframe"
    r"|start_keyconfig|stop_keyconfig|showmenubutton|hidemenubutton|clearfix|clearstack|mask_off|bg2|loadjs|loadcss|autosave"
    r"|setreplay|endreplay|layermode|sleepgame|awakegame|popopo|dialog|cg_image_button|ptext)(?=[\s\]]|\Z)"
)
NANINOVEL = regex.compile(r"@\w+.*\s\w+:\S")  # parameters with a colon
MARKED = regex.compile(r"[@\[][^\s\[\]@]|\*\S|\*\||;|.*\]\Z")
HEAD = 200  # non-blank lines that are looked at


def sniff(text: str) -> float:
    """The share of lines with marks of KAG; less where they may as well be TyranoScript's."""
    marked, tyrano = marks(text)
    return marked / 2 if tyrano else marked


def marks(text: str) -> tuple[float, bool]:
    """How much looks like a scenario of tags, 0 to 1, and whether any of it is TyranoScript's alone."""
    lines = [line.strip() for line in text[: HEAD * 400].split("\n") if line.strip()][:HEAD]
    tyrano = any(TYRANO.match(line) for line in lines)
    core = any(CORE.search(line) for line in lines)
    equal_signs = sum(line[0] in "@[" and "=" in line for line in lines)
    if not core or equal_signs < sum(bool(NANINOVEL.match(line)) for line in lines):
        return 0.0, tyrano
    return min(1.0, 1.5 * sum(bool(MARKED.match(line)) for line in lines) / len(lines)), tyrano


FORMAT = Format("kag", (".ks",), sniff, read, survey, heir="tyrano")  # not every file of such a game shows its engine
