"""What the macros of a KAG game do, learned from their definitions and calls in all its files."""

from collections import Counter
from collections.abc import Iterable, Iterator

import regex

from stages.formats.kag_tags import ATTRIBUTE, CORE, END, NAME, PRINTS, TAGS, TYRANO, Piece, pieces, printed

# What the survey learns from a folder's macros, under these prefixes and the macro's name:
MACRO = "macro:"  # the speaker that it sets, or `%x`: the speaker that its call gives as x
ENDS = "ends:"  # it ends a message
SHOWN = "shown:"  # the text that it prints
BODY = 4000  # characters of a definition that are looked at
MACRO_SIGN = regex.compile(r"(?i)[\[@](?:end)?macro\b")
DEFINITION = regex.compile(r"(?i)[\[@]macro[ \t]+name[ \t]*=[ \t]*[\"']?([^\s\"'\]]+)[\"']?[ \t]*\]?")
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
        for name, parts in _definitions(text):
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


def _definitions(text: str) -> Iterator[tuple[str, list[Piece]]]:
    """Each macro that a file defines, and the pieces of its body."""
    for found in DEFINITION.finditer(text):
        body = MACRO_SIGN.split(text[found.end() : found.end() + BODY], maxsplit=1)[0]
        yield found[1].lower(), list(pieces(body, tyrano=True))


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
