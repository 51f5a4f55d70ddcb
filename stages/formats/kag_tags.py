"""The tags of a KAG scenario (.ks): those that name and end, those of the engines, and a text cut at them."""

from collections.abc import Iterator
from typing import NamedTuple

import regex

# [nm name="x"], @nm t=x, [nm_x], [ns]x[nse], 【x】, @【x】, and before a quote a macro of no Latin name.
TAGS = r"nm|name|namae|talk|speak|speaker|serif|whosay|msg|mes|message|chara_ptext"
NAME = (
    rf"(?i)[\[@](?:{TAGS})(?=[\s\]])"
    r"[^\]\n]*?\b(?:name|text|t|n|who)\s*=\s*(?:\"([^\"\n]*)\"|'([^'\n]*)'|([^\s\"'\]]*))"
    r"|[\[@]npc(?=\s)[^\]\n]*?\bid\s*=\s*(?:\"([^\"\n]*)\"|'([^'\n]*)'|([^\s\"'\]]*))"
    r"|[\[@]nm_([^\s\]]+)|\[ns\](?=[^\[\n]+\[nse\])([^\[]+)|@?【([^【】\n]*+)】"
    r"|\[(?=[^\x00-\x7f][^\[\]\n]*+\][「『])([^\[\]\s]+)"
)
END = r"(?i:n?p|pg|page|[lr]{0,2}(?:pcms?|cm)|pcms_sel|ct|er|en|fc|vp|ml|plc|endmessage|endpage|hitret|s)"
CORE = regex.compile(
    r"(?i)[\[@](?:r|l|p|cm|lr|pcm|pg|ct|er|s|wait|jump|call|return|eval|if|else|endif|image|trans|wt|backlay|playbgm|stopbgm|fadeoutbgm"
    r"|playse|link|endlink|font|resetfont|ruby|emb|ch|nm|layopt|position|current|macro|iscript|endmessage|hitret|talk|button|locate|history|rclick|title|edit|video|hact|style|nowait|delay|clickskip|keyframe|frame|endkeyframe)(?=[\s\]]|\Z)"
)
TYRANO = regex.compile(
    r"#(?:\S|\Z)|[\[@](?:chara_(?:new|show|hide|mod|face|config|ptext|part|move|layer|delete)|glink|_?tb_\w+|mtext|kanim|keyframe"
    r"|start_keyconfig|stop_keyconfig|showmenubutton|hidemenubutton|clearfix|clearstack|mask_off|bg2|loadjs|loadcss|autosave"
    r"|setreplay|endreplay|layermode|sleepgame|awakegame|popopo|dialog|cg_image_button|ptext)(?=[\s\]]|\Z)"
)
COMMENTED = regex.compile(r"(?i)\[(?:s|return|jump(?:[ ](?![^\]\n]*\bcond)[^\]\n]*)?)\][ \t]*;")  # nobody comes there
PRINTS = ("emb", "ch")
PART = regex.compile(
    r"(\[\[)|\[([^\x00-\x7f][^\[\]\s'=]*+)'[^\[\]'\s]++\]|\[((?:[^\[\]\"']++|\"[^\"]*+\"|'[^']*+'|\[[^\[\]]*+\])*+)\]"
)
UNQUOTED = regex.compile(  # the same groups; a tag with a quotation mark too many
    r"()()\[([^\[\]]*+(?:\[[^\[\]]*+(?:\[[^\[\]]*+\][^\[\]]*+)*+\][^\[\]]*+)*+)\]"
)
TAG = regex.compile(r"[ \t]*+([^\s=\]]++)")
ATTRIBUTE = regex.compile(r"(?<![^\s\"'])([^\s=\"'\[\]]++)\s*+=\s*+(\"[^\"]*+\"|'[^']*+'|[^\s\"']++)")
HIDDEN = {"iscript": "endscript", "html": "endhtml"}  # code: nothing of it is read out
COMPUTES = regex.compile(r"[;=]|\+\+|--")


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


def printed(piece: Piece) -> str:
    """The text of `[ch]`, and `{f.name}` for an `[emb]` of a value; one that computes prints what nobody can know."""
    values = piece.attributes()
    expression = values.get("exp", "")
    return values.get("text") or ("" if not expression or COMPUTES.search(expression) else f"{{{expression}}}")
