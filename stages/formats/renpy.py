"""Ren'Py scripts (.rpy): what characters and narrator say, and menu items; all other statements are passed over.

Built on the language reference (label, say, menu, translate, text tags, text interpolation). A translate block's scene
is the label in its id; a `define`d identifier becomes the character's name. Of a translation beside the scripts that
it translates, and of several translations, one is read; the lines of the others are rejects that say so.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

from stages.formats.kinds import head_lines, said
from stages.formats.message import Format, Message, Options, Reject
from stages.formats.renpy_names import LABELLED, LANGUAGE, STATEMENT, TRANSLATED, survey
from stages.formats.renpy_tokens import (
    HOLDERS,
    JOINS,
    NOT_SAID,
    PIECE,
    SILENT,
    STATEMENTS,
    STRING,
    TRANSLATE,
    TRIPLES,
    WORD,
    label_of,
    string_text,
)
from stages.records import InputError

# As in renpy_tokens, possessive marks stand on single characters and classes alone.
WHO = rf"(?!r[\"'`]){WORD}(?:\.{WORD}|\([^()\n]*+\)|\[[^\[\]\n]*+\])*"
ATTRIBUTES = (
    r"(?:[ \t]*+@[ \t]*+[-\w\u00a0-\ufffd]++|[ \t]++(?!(?:with|if|as|in|at|behind|onlayer|zorder)\b)"
    r"[-\w\u00a0-\ufffd]++(?!['\"`]))*[ \t]*+"
)
BLANK = r"(?:[ \t]*+(?:\#[^\n]*+)?\n)*(?:[ \t]*+\#[^\n]*+)?"
# Statements of one line that open no block and change nothing for the reader: most of a script, taken in one bite.
CALL = r"[^\n(]*+\((?:[^\n(,\"']*+,)?[ \t]*+(?:_\()?[\"']"  # of a function with a text, which may be a say
PLAIN = r"[^\n\"'`\#()\[\]{}\\:]*+"
PASSED = (
    rf"(?:[ \t]*+(?:\$(?!{CALL})|(?:scene|show|hide|with|play|stop|queue|voice|pause|window|jump|call|return|image"
    r"|define)\b)"
    rf"{PLAIN}(?:(?:\"[^\"\\\n]*+\"|\([^()\n\"'`\#\[\]{{}}\\:]*+\)){PLAIN})*"
    r"(?:\#[^\n]*+)?(?:\n|\Z)|[ \t]*+(?:\#[^\n]*+)?\n)*"
)
# Blank lines and comments, the indent; then: who "what", or "who" "what", or "what"; then the end of the line, if so.
LINE = re.compile(
    rf"{PASSED}{BLANK}([ \t]*+)(?:({WHO}){ATTRIBUTES}({STRING})|({STRING})(?:{ATTRIBUTES}({STRING}))?)?"
    r"([ \t]*+(?:\n|\Z))?",
    re.DOTALL,
)
TRIPLE = re.compile(rf"(?:({WHO}|{STRING}){ATTRIBUTES})?r?(?:{'|'.join(TRIPLES)})", re.DOTALL)
INDENT = re.compile(rf"{BLANK}([ \t]*+)")
SIMPLE = re.compile(r"[^\n\"'`#()\[\]{}\\]*+(?:\n|\Z)")
CLAUSE = re.compile(r"[ \t]*+(?:\#|\(|(?:with|nointeract|id)\b)")
CHOICE = re.compile(r"[ \t]*+(?::|\(|if\b)")
COLON = re.compile(r":[ \t]*+(?:\#[^\n]*+)?\n?\Z")
HEADER = re.compile(rf"[ \t]*+(\$|{WORD})")
LABEL = re.compile(rf"[ \t]*+label[ \t]++((?:{WORD})?(?:\.{WORD})?)")
PLAIN_INIT = re.compile(r"[ \t]*+init(?:[ \t]++-?\d+)?[ \t]*+:")
MONOLOGUE = re.compile(r"[ \t]*+rpy[ \t]++monologue[ \t]++(double|single|none)\b")
DELIMITERS = {"double": r"\n[ ]*\n", "single": r"\n", "none": r"\Z"}
NARRATORS = {"narrator", "centered", "vcentered", "nvl_narrator", "adv", "nvl", "name_only"}
SAID = re.compile(  # $ renpy.say(who, "what"), $ who("what")
    rf"[ \t]*+\$[ \t]*+(?:renpy\.say\([ \t]*+({WHO}|{STRING})[ \t]*+,|({WORD}(?:\.{WORD})*)\()[ \t]*+(?:_\()?({STRING})"
    r"[ \t]*+[,)]",
    re.DOTALL,
)


def read(text: str, options: Options) -> Iterator[Message | Reject]:
    """Yield what is said in file order; an `extend` is part of the message it extends."""
    wanted, names = options.renpy_language, options.names
    if wanted and TRANSLATED + wanted not in names:
        known = sorted(key.removeprefix(TRANSLATED) for key in names if re.fullmatch(TRANSLATED + WORD, key))
        raise InputError(f"extract.renpy_language: expected one of {', '.join(known) or 'none'}, got {wanted!r}")
    return with_extends(_Script(text, names, wanted).items())


def with_extends(items: Iterable[Message | Reject]) -> Iterator[Message | Reject]:
    """Whole messages: the kind `extend` joins the one before; after a choice it is its speaker's next message."""
    held: Message | Reject | None = None
    speaker: str | None = None
    for item in items:
        if isinstance(item, Message) and item.kind == "extend":
            if isinstance(held, Message) and held.kind != "choice":
                held = held._replace(text=held.text + item.text)
                continue
            item = item._replace(speaker=speaker, kind="speech")
        if held and (whole := _finished(held)):
            yield whole
        held = item
        if isinstance(item, Message) and item.kind != "choice":
            speaker = item.speaker
    if held and (whole := _finished(held)):
        yield whole


def _finished(item: Message | Reject) -> Message | Reject | None:
    """The item once nothing extends it, without spaces around its text; None where that leaves nothing."""
    text = item.text.strip()
    if not text or isinstance(item, Reject) or item.kind == "choice":
        return item._replace(text=text) if text else None
    return said(item.line, item.speaker, text, item.scene)


def speaker_name(who: str, names: Mapping[str, str]) -> str:
    """The name of an identifier, the text of a string, `{expression}` for what only the running game knows."""
    if who[-1] in "\"'`":
        return string_text(who).strip()
    name = names.get(who.removeprefix("character."))
    if name is not None:
        return name
    if who in NARRATORS:
        return ""
    return f"{{{who}}}" if "(" in who or "[" in who else who


def said_twice(label: str, language: str, wanted: str, names: Mapping[str, str]) -> str:
    """Why a translation is not read: another is wanted, the scripts have its label, or more is in another language."""
    if wanted:
        return "" if language == wanted else f"a translation ({language}), extract.renpy_language is {wanted}"
    if LABELLED + label in names:
        return f"a translation of what a script of this folder says; extract.renpy_language: {language} reads it"
    chosen = names.get(LANGUAGE, language)
    return "" if chosen == language else f"a translation ({language}) beside one into {chosen}, which is read"


class _Script:
    """The text, the place reached, and what the place means: line number, scene, how paragraphs of a monologue part."""

    def __init__(self, text: str, names: Mapping[str, str], wanted: str = "") -> None:
        self.text, self.names, self.wanted = text, names, wanted
        self.registered = {name.removeprefix(STATEMENT) for name in names if name.startswith(STATEMENT)}
        self.silent = SILENT | self.registered
        self.at = self.number_at = 0
        self.number = 1
        self.scene = ""
        self.twice = ""  # why the block at hand is not read, if it is not
        self.delimiter = DELIMITERS["double"]
        self.joins = JOINS

    def items(self) -> Iterator[Message | Reject]:
        """Yield messages (an `extend` has that kind) and rejects, statement by statement."""
        match, text = LINE.match, self.text
        while self.at < len(text):
            found = match(text, self.at)
            indent, who, what, bare, second, end = found.groups()
            start = found.end(1)
            if not indent:
                self.twice = ""
            self.number += text.count("\n", self.number_at, start)
            self.number_at = start
            if what is None and bare is None:
                yield from self.statement(start, len(indent))
                continue
            if what is None and second is not None:
                who, what = bare, second
            if end is not None and who not in self.silent:
                self.at = found.end()
                yield self.said(who, what or bare, self.number)
            else:
                yield from self.said_with_clauses(who, what or bare, start, len(indent), found.end())

    def said(self, who: str | None, what: str, number: int) -> Message | Reject:
        text = string_text(what)
        if self.twice:
            return Reject(number, text, self.twice)
        if who == "extend":
            return Message(number, None, text, "extend", self.scene)
        speaker = who and self.translated(speaker_name(who, self.names))
        return Message(number, speaker or None, text, "speech", self.scene)

    def said_with_clauses(
        self, who: str | None, what: str, start: int, indent: int, tail_at: int
    ) -> Iterator[Message | Reject]:
        """A say with `with`, `id`, arguments; a menu item; or a statement such as `voice "file"`."""
        if who in self.silent:
            yield from self.statement(start, indent)
            return
        end = self.logical_end(tail_at)
        tail = self.text[tail_at:end]
        if who is None and CHOICE.match(tail) and COLON.search(tail):
            yield Message(self.number, None, self.translated(string_text(what)), "choice", self.scene)
        elif not tail.strip() or CLAUSE.match(tail):
            yield self.said(who, what, self.number)
        else:
            yield self.reject(start, "expected a clause or the end of the line after the string")
            return
        self.at = end

    def statement(self, start: int, indent: int) -> Iterator[Message | Reject]:
        """Anything but a plain say: a monologue, a label, code to pass over, or a line that no rule understands."""
        if start >= len(self.text):
            self.at = start
            return
        found = HEADER.match(self.text, start)
        word = found[1] if found else ""
        if word in STATEMENTS or word in self.registered:
            self.at = self.logical_end(start)
            if word == "$" and (call := SAID.match(self.text, start)):
                yield from self.called(*call.groups())
            elif not self.opens(word, start):
                self.skip_block(indent)
        elif monologue := TRIPLE.match(self.text, start):
            yield from self.monologue(monologue)
        else:
            yield self.reject(start, "no statement of Ren'Py")

    def called(self, who: str | None, character: str | None, what: str) -> Iterator[Message | Reject]:
        """A say written as Python; `$ f("text")` is one where f is a character."""
        if character is None or character in self.names or character in NARRATORS:
            yield self.said(None if who == "None" else who or character, what, self.number)

    def opens(self, word: str, start: int) -> bool:
        """True where the block below is script; sets the scene on the way."""
        if word == "label":
            name = LABEL.match(self.text, start)
            if name and name[1]:
                self.scene = self.scene.partition(".")[0] + name[1] if name[1].startswith(".") else name[1]
            if TRANSLATED + f"{self.wanted}:{self.scene.replace('.', '_')}" in self.names:
                self.twice = f"what a translation ({self.wanted}) of this folder says"
            return True
        if word == "translate":
            block = TRANSLATE.match(self.text, start)
            if not block or block[2] in NOT_SAID:
                return False
            label = label_of(block[2])
            self.scene = self.scene if label is None else label
            self.twice = said_twice(self.scene, block[1], self.wanted, self.names)
            return True
        if word == "rpy" and (mode := MONOLOGUE.match(self.text, start)):
            self.delimiter = DELIMITERS[mode[1]]
        if word in self.registered:
            return self.names[STATEMENT + word] == "script"
        return word in HOLDERS or bool(PLAIN_INIT.match(self.text, start))

    def translated(self, shown: str) -> str:
        """A name or a choice in the wanted language, where its `strings` have it."""
        return self.names.get(f"{TRANSLATED}{self.wanted}={shown}", shown) if self.wanted else shown

    def monologue(self, found: re.Match[str]) -> Iterator[Message | Reject]:
        """Each paragraph of a triple-quoted string is one say."""
        body_at, body_end = next(found.span(group) for group in (2, 3, 4) if found[group] is not None)
        self.at = self.logical_end(found.end())
        at, number, counted = body_at, self.number, found.start()
        for border in [*re.finditer(self.delimiter, self.text[body_at:body_end]), None]:
            end = body_at + border.start() if border else body_end
            paragraph = self.text[at:end]
            if paragraph.strip() and paragraph.strip() != "{clear}":
                first = at + len(paragraph) - len(paragraph.lstrip())
                number += self.text.count("\n", counted, first)
                counted = first
                yield self.said(found[1], f'"{paragraph.strip()}"', number)
            at = body_at + border.end() if border else end

    def skip_block(self, indent: int) -> None:
        """Pass over the lines that are deeper than `indent`."""
        while self.at < len(self.text):
            found = INDENT.match(self.text, self.at)
            if len(found[1]) <= indent or found.end() >= len(self.text):
                return
            self.at = self.logical_end(found.end())

    def logical_end(self, at: int) -> int:
        """Where the logical line that goes on at `at` ends, its newline included."""
        if simple := SIMPLE.match(self.text, at):
            return simple.end()
        depth = 0
        if self.joins:
            for piece in PIECE.finditer(self.text, at):
                token = piece[0]
                if token in "([{":
                    depth += 1
                elif token in ")]}":
                    depth -= 1
                elif token == "\n" and depth <= 0:
                    return piece.end()
            if depth <= 0:
                return len(self.text)
            self.joins -= 1
        return self.physical_end(at)

    def physical_end(self, at: int) -> int:
        return self.text.find("\n", at) + 1 or len(self.text)

    def reject(self, start: int, reason: str) -> Reject:
        """Give up one line of the file and go on with the next."""
        self.at = self.physical_end(start)
        return Reject(self.number, self.text[start : self.at].rstrip(), reason)


MARKER = re.compile(
    r"[ \t]*+(?:label[ \t]+[\w.]+.*:|menu\b.*:|translate[ \t]+\w+[ \t]+\S+:|(?:define|default)[ \t]+[\w.]+[ \t]*=.*"
    r"|image[ \t].+[=:]|jump[ \t]+\w+"
    r"|(?:init|screen|style|transform|python|scene|show|testcase|layeredimage)\b.*"
    r"|\$.*=.*|return)[ \t]*\Z"
)
SAY = re.compile(rf"[ \t]*+{WORD}{ATTRIBUTES}{STRING}[ \t]*\Z", re.DOTALL)


def sniff(text: str) -> float:
    """The share of lines that the reader understands, if some of them are Ren'Py's alone."""
    lines = head_lines(text)
    marks = sum(bool(MARKER.match(line)) for line in lines)
    says = sum(bool(SAY.match(line)) for line in lines)
    if not lines or (not marks and says * 2 < len(lines)):
        return 0.0
    rejects = sum(isinstance(item, Reject) for item in _Script("\n".join(lines), {}).items())
    understood = 1 - rejects / len(lines)
    return understood if marks else 0.8 * understood


FORMAT = Format("renpy", (".rpy", ".rpym"), sniff, read, survey)
