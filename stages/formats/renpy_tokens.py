"""The grammar that Ren'Py's readers share: words, strings, statements, ids of translations, and what a string shows."""

import re

from stages.formats.kinds import WIDE_SIGN

# Possessive marks stand on single characters and classes alone: the `re` of Python 3.11.2 reads others wrongly. Where
# a group repeats, what begins it can begin nothing that may follow it, so a failed match gives up without a search.
WORD = r"[a-zA-Z_\u00a0-\ufffd][0-9a-zA-Z_\u00a0-\ufffd]*+"
DOUBLE, SINGLE, BACK = (rf"{mark}(?!{mark}{mark})[^{mark}\\]*+(?:\\.[^{mark}\\]*+)*{mark}" for mark in "\"'`")
STRING = rf"(?:r?{DOUBLE}|r?{SINGLE}|r?{BACK})"
TRIPLES = [rf"{mark * 3}([^{mark}\\]*+(?:(?:\\.|{mark}(?!{mark}{mark}))[^{mark}\\]*+)*){mark * 3}" for mark in "\"'`"]
# What decides where a logical line ends: strings and brackets hide a newline, a comment hides the rest of its line.
PIECE = re.compile(
    rf"[^\n\"'`#()\[\]{{}}\\]++|\#[^\n]*+|{TRIPLES[0]}|{TRIPLES[1]}|{STRING}|\\.|.",
    re.DOTALL,
)
TRANSLATE = re.compile(rf"[ \t]*+translate[ \t]++({WORD})[ \t]++([0-9a-zA-Z_\u00a0-\ufffd]++)")
NOT_SAID = ("strings", "python", "style")
BLOCK_ID = re.compile(r"(.*?)_?[0-9a-f]{8}(?:_\d+)?\Z")

WORDS = """$ call camera default define hide image init jump label layeredimage nvl pass pause play python queue return
    rpy scene screen set show stop style testcase testsuite transform translate voice window with IF"""
HOLDERS = {"if", "elif", "else", "while", "menu"}  # their blocks hold statements to read
STATEMENTS = HOLDERS.union(WORDS.split())
SILENT = STATEMENTS - {"nvl"}  # before a string these are no speakers; `nvl` is a character as well
JOINS = 20  # unclosed brackets and broken statements of several lines that are looked through: keeps time linear


def label_of(identifier: str) -> str | None:
    """The label in the id of a translation, `label_1a2b3c4d`; None where an author chose the id."""
    found = BLOCK_ID.match(identifier)
    return found[1] if found else None


MARKED = re.compile(r"[\\\[{%\n【]|  ")
MARK = re.compile(
    r"\\u([0-9a-fA-F]{1,4})|\\(.)|(\[\[|\{\{|【【|%%)|\[([^\[\]]*+(?:\[[^\[\]]*+\][^\[\]]*+)*)\]|%\((\w+)\)[sd]|【([^【】｜|]*+)[｜|][^【】]*+】"
    r"|\{([^{}]*+)\}",
    re.DOTALL,
)
SPACES = re.compile(r"[ \n]+")
SURROGATE = re.compile("[\ud800-\udfff]")
UNSAID = ("rt", "art", "alt")  # ruby, and text for the self-voicing machine alone


def string_text(string: str) -> str:
    """What a string with its quotes shows; runs of spaces and newlines count as one space, except in a raw string."""
    if string[0] == "r":
        return clean(string[2:-1].replace("\\", "\\\\"))
    text = string[1:-1]
    return clean(SPACES.sub(" ", text)) if MARKED.search(text) else text


def clean(source: str) -> str:
    """Resolve escapes, drop text tags and ruby, and turn an interpolated `[name!t]` into `{name}`."""
    return paired(_without_marks(source)) if MARKED.search(source) else source


def paired(text: str) -> str:
    """The halves of a character that escapes spell, `\\ud83d\\ude00`, as one character; a half alone replaced."""
    if not SURROGATE.search(text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _without_marks(source: str) -> str:
    parts: list[str] = []
    at, unsaid = 0, ""
    for mark in MARK.finditer(source):
        tag = mark[7]
        if not unsaid:
            parts.append(source[at : mark.start()])
            parts.append(_shown(mark) if tag is None else "")
        at = mark.end()
        if tag is None:
            continue
        name = tag.partition("=")[0].strip()
        if unsaid:
            unsaid = "" if name == "/" + unsaid else unsaid
        elif name in UNSAID:
            unsaid = name
        elif name == "done":
            return "".join(parts)
        elif name == "p":
            parts.append("" if WIDE_SIGN.match(source[mark.start() - 1 : mark.start()]) else " ")
    return "".join(parts) + ("" if unsaid else source[at:])


def _shown(mark: re.Match[str]) -> str:
    code, escaped, doubled, expression, old, base = mark.groups()[:6]
    if code is not None:
        return chr(int(code, 16))
    if escaped is not None:
        return "\n" if escaped == "n" else escaped
    if doubled is not None:
        return doubled[0]
    if base is not None:
        return base
    return f"{{{old or _variable(expression)}}}"


def _variable(expression: str) -> str:
    """`name!t` and `name:.2f` without what says how to print it."""
    return re.split(r"[!:]", expression, maxsplit=1)[0].strip()
