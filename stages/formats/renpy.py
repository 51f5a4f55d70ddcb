"""Ren'Py scripts (.rpy): what characters and narrator say, and menu items; all other statements are passed over.

Built on the language reference (label, say, menu, translate, text tags, text interpolation). A translate block's scene
is the label in its id; a `define`d identifier becomes the character's name. Of a translation beside the scripts that
it translates, and of several translations, one is read; the lines of the others are rejects that say so.
"""

import ast
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise

from stages.formats.kinds import kind_of
from stages.formats.message import Format, Message, Options, Reject
from stages.records import InputError

# Possessive marks stand on single characters and classes alone: the `re` of Python 3.11.2 reads others wrongly. Where
# a group repeats, what begins it can begin nothing that may follow it, so a failed match gives up without a search.
WORD = r"[a-zA-Z_\u00a0-\ufffd][0-9a-zA-Z_\u00a0-\ufffd]*+"
DOUBLE, SINGLE, BACK = (rf"{mark}(?!{mark}{mark})[^{mark}\\]*+(?:\\.[^{mark}\\]*+)*{mark}" for mark in "\"'`")
STRING = rf"(?:r?{DOUBLE}|r?{SINGLE}|r?{BACK})"
TRIPLES = [rf"{mark * 3}([^{mark}\\]*+(?:(?:\\.|{mark}(?!{mark}{mark}))[^{mark}\\]*+)*){mark * 3}" for mark in "\"'`"]
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
# What decides where a logical line ends: strings and brackets hide a newline, a comment hides the rest of its line.
PIECE = re.compile(
    rf"[^\n\"'`#()\[\]{{}}\\]++|\#[^\n]*+|{TRIPLES[0]}|{TRIPLES[1]}|{STRING}|\\.|.",
    re.DOTALL,
)
CLAUSE = re.compile(r"[ \t]*+(?:\#|\(|(?:with|nointeract|id)\b)")
CHOICE = re.compile(r"[ \t]*+(?::|\(|if\b)")
COLON = re.compile(r":[ \t]*+(?:\#[^\n]*+)?\n?\Z")
HEADER = re.compile(rf"[ \t]*+(\$|{WORD})")
LABEL = re.compile(rf"[ \t]*+label[ \t]++((?:{WORD})?(?:\.{WORD})?)")
TRANSLATE = re.compile(rf"[ \t]*+translate[ \t]++({WORD})[ \t]++([0-9a-zA-Z_\u00a0-\ufffd]++)")
NOT_SAID = ("strings", "python", "style")
BLOCK_ID = re.compile(r"(.*?)_?[0-9a-f]{8}(?:_\d+)?\Z")
PLAIN_INIT = re.compile(r"[ \t]*+init(?:[ \t]++-?\d+)?[ \t]*+:")
MONOLOGUE = re.compile(r"[ \t]*+rpy[ \t]++monologue[ \t]++(double|single|none)\b")
DELIMITERS = {"double": r"\n[ ]*\n", "single": r"\n", "none": r"\Z"}

WORDS = """$ call camera default define hide image init jump label layeredimage nvl pass pause play python queue return
    rpy scene screen set show stop style testcase testsuite transform translate voice window with IF"""
HOLDERS = {"if", "elif", "else", "while", "menu"}  # their blocks hold statements to read
STATEMENTS = HOLDERS.union(WORDS.split())
SILENT = STATEMENTS - {"nvl"}  # before a string these are no speakers; `nvl` is a character as well
NARRATORS = {"narrator", "centered", "vcentered", "nvl_narrator", "adv", "nvl", "name_only"}
STATEMENT = "statement:"  # before the first word of a creator-defined statement, in the survey's names
LABELLED = "label:"  # before a label of the scripts, as identifiers of translations spell it, in the survey's names
TRANSLATED = "translated:"  # before language and label, or language and string, in the survey's names
LANGUAGE = "language:"  # the survey's name for the language that most translations are in
SAID = re.compile(  # $ renpy.say(who, "what"), $ who("what")
    rf"[ \t]*+\$[ \t]*+(?:renpy\.say\([ \t]*+({WHO}|{STRING})[ \t]*+,|({WORD}(?:\.{WORD})*)\()[ \t]*+(?:_\()?({STRING})"
    r"[ \t]*+[,)]",
    re.DOTALL,
)
JOINS = 20  # unclosed brackets and broken statements of several lines that are looked through: keeps time linear


def read(text: str, options: Options) -> Iterator[Message | Reject]:
    """Yield what is said in file order; an `extend` is part of the message it extends."""
    wanted, names = options.renpy_language, options.names
    if wanted and TRANSLATED + wanted not in names:
        known = sorted(key.removeprefix(TRANSLATED) for key in names if re.fullmatch(TRANSLATED + WORD, key))
        raise InputError(f"extract.renpy_language: expected one of {', '.join(known) or 'none'}, got {wanted!r}")
    return with_extends(_Script(text, names, wanted).items())


def with_extends(items: Iterable[Message | Reject]) -> Iterator[Message | Reject]:
    """Join messages of the kind `extend` to the one before; after a choice they are its speaker's next message."""
    held: Message | Reject | None = None
    speaker: str | None = None
    for item in items:
        if isinstance(item, Message) and item.kind == "extend":
            if isinstance(held, Message) and held.kind != "choice":
                text = held.text + item.text
                held = held._replace(text=text, kind=kind_of(held.speaker, text))
                continue
            item = item._replace(speaker=speaker, kind=kind_of(speaker, item.text))
        if held and (said := _trimmed(held)):
            yield said
        held = item
        if isinstance(item, Message) and item.kind != "choice":
            speaker = item.speaker
    if held and (said := _trimmed(held)):
        yield said


def _trimmed(item: Message | Reject) -> Message | Reject | None:
    """The item without spaces around its text; None where that leaves nothing."""
    text = item.text.strip()
    if text == item.text:
        return item if text else None
    return item._replace(text=text) if text else None


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


def label_of(identifier: str) -> str | None:
    """The label in the id of a translation, `label_1a2b3c4d`; None where an author chose the id."""
    found = BLOCK_ID.match(identifier)
    return found[1] if found else None


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
        return Message(number, speaker or None, text, kind_of(speaker, text), self.scene)

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


MARKED = re.compile(r"[\\\[{%\n【]|  ")
MARK = re.compile(
    r"\\u([0-9a-fA-F]{1,4})|\\(.)|(\[\[|\{\{|【【|%%)|\[([^\[\]]*+(?:\[[^\[\]]*+\][^\[\]]*+)*)\]|%\((\w+)\)[sd]|【([^【】｜|]*+)[｜|][^【】]*+】"
    r"|\{([^{}]*+)\}",
    re.DOTALL,
)
SPACES = re.compile(r"[ \n]+")
SURROGATE = re.compile("[\ud800-\udfff]")
UNSAID = ("rt", "art", "alt")  # ruby, and text for the self-voicing machine alone
WIDE = re.compile(r"[\u2e80-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff00-\uffef]")


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
            parts.append("" if WIDE.match(source[mark.start() - 1 : mark.start()]) else " ")
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


ASSIGNED = rf"(?:(?:define|default)(?:[ \t]++-?\d+)?[ \t]++|\$[ \t]*+)?({WORD}(?:\.{WORD})*)[ \t]*+=[ \t]*+"
DEFINITION = re.compile(rf"[ \t]*+{ASSIGNED}(?:\w++\.)*(\w*+)(?<=Character)\Z")
ASSIGNMENT = re.compile(
    rf"^[ \t]*+{ASSIGNED}(?:(?:_\()?({STRING})\)?[ \t]*+(?:\#[^\n]*+)?$)?", re.MULTILINE | re.DOTALL
)
CHARACTER = re.compile(r"Character[ \t]*+\(")
VARIABLE = re.compile(rf"\{{({WORD}(?:\.{WORD})*)\}}")
LABELS = re.compile(r"^[ \t]*+label[ \t]++([\w.\u00a0-\ufffd]++)", re.MULTILINE)
SPOKEN = re.compile(  # roughly a say
    rf"^[ \t]++(?!(?:{'|'.join(word for word in sorted(SILENT) if word != '$')})\b)(?:[^\W\d][^\n\"'=(\#$]*+)?[\"']",
    re.MULTILINE,
)
TRANSLATE_BLOCK = re.compile("^" + TRANSLATE.pattern, re.MULTILINE)
STRINGS = re.compile(rf"^translate[ \t]++({WORD})[ \t]++strings[ \t]*+:.*\n((?:(?:[ \t].*)?\n)*)", re.MULTILINE)
OLD_NEW = re.compile(rf"^[ \t]++old[ \t]++({STRING})\s++new[ \t]++({STRING})", re.MULTILINE | re.DOTALL)
REGISTERED = re.compile(r"""(?:statements\.register|register_statement)\(\s*(?:name\s*=\s*)?["'](\w+)""")
SCRIPT_BLOCK = re.compile(r"\bblock[ ]*=[ ]*[\"']script")
NEAR = 400  # characters before `Character(` in which its line must begin, and after the name of a statement
ARGUMENTS = 3000  # characters in which its arguments must end


def survey(texts: Iterable[str]) -> dict[str, str]:
    """Identifier -> name over all files; "" for a character without a name.

    The key `statement:word` stands for a creator-defined statement, whose lines nobody says; `label:name` and
    `language:` tell which translations say nothing new (see said_twice); `translated:` keys what is in which language.
    """
    names: dict[str, str] = {}
    kinds: dict[str, str] = {}
    languages: Counter[str] = Counter()
    values: dict[str, str] = {}
    for text in texts:
        for identifier, call in _definitions(text):
            name, kind = _name_and_kind(call)
            if name is not None and not names.get(identifier):
                names[identifier] = name
            elif kind and identifier not in names:
                kinds.setdefault(identifier, kind)
        if "register" in text:
            names.update(_statements(text))
        names.update(dict.fromkeys(_labels(text), ""))
        if "translate" in text:
            languages.update(language for language, _ in _blocks(text))
            names.update(_translations(text))
        _assign(text, values)
    for identifier in kinds:
        names.setdefault(identifier, _inherited(identifier, names, kinds))
    if languages:
        names[LANGUAGE] = max(languages, key=lambda language: languages[language])
        names |= {TRANSLATED + language: "" for language in languages}
    return {
        identifier: VARIABLE.sub(lambda found: values.get(found[1]) or found[0], name)
        for identifier, name in names.items()
    }


def _statements(text: str) -> Iterator[tuple[str, str]]:
    """Creator-defined statements, and `script` for one whose block is script."""
    for found in REGISTERED.finditer(text):
        call = text[found.end() : found.end() + NEAR].partition("register")[0]
        yield STATEMENT + found[1], "script" if SCRIPT_BLOCK.search(call) else ""


def _labels(text: str) -> Iterator[str]:
    """The labels under which a script says something, under LABELLED; "" stands for what is said before the first."""
    outer, borders = "", [*LABELS.finditer(text), None]
    for found, following in pairwise(borders):
        outer = outer if found[1].startswith(".") else found[1].partition(".")[0]
        label = outer + found[1] if found[1].startswith(".") else found[1]
        if SPOKEN.search(text, found.end(), following.start() if following else len(text)):
            yield LABELLED
            yield LABELLED + label.replace(".", "_")


def _blocks(text: str) -> list[tuple[str, str]]:
    """Language and id of each translate block that says something."""
    return [block for block in TRANSLATE_BLOCK.findall(text) if block[1] not in NOT_SAID]


def _translations(text: str) -> Iterator[tuple[str, str]]:
    """The labels that are translated, by language, and old and new of the `strings`."""
    for language, identifier in _blocks(text):
        if (label := label_of(identifier)) is not None:
            yield f"{TRANSLATED}{language}:{label}", ""
    for language, block in STRINGS.findall(text):
        for old, new in OLD_NEW.findall(block):
            yield f"{TRANSLATED}{language}={string_text(old)}", string_text(new)


def _assign(text: str, values: dict[str, str]) -> None:
    """Note the text that a variable holds, ??? and nothing aside; "" for one that does not always hold the same."""
    for found in ASSIGNMENT.finditer(text):
        value = string_text(found[2]) if found[2] else ""
        if not found[2] or any(map(str.isalnum, value)):
            values[found[1]] = value if values.get(found[1], value) == value else ""


def _definitions(text: str) -> Iterator[tuple[str, str]]:
    """Yield identifier and source of the call for each `x = …Character(…)`."""
    found, unclosed = CHARACTER.search(text), 0
    while found and unclosed < JOINS:
        at, end = found.start(), found.end()
        head_end = at + len("Character")
        head_at = text.rfind("\n", max(0, at - NEAR), at) + 1
        if head_at or at < NEAR:
            head = DEFINITION.match(text[head_at:head_end])
            if head:
                window = text[end - 1 : end - 1 + ARGUMENTS]
                closed = _closed(window)
                unclosed += not closed
                yield head[1].removeprefix("character."), head[2] + window[:closed]
                end += closed
        found = CHARACTER.search(text, end)


def _closed(window: str) -> int:
    """Where the bracket that opens the window closes; 0 where it does not."""
    depth = 0
    for piece in PIECE.finditer(window):
        if piece[0] in "([{":
            depth += 1
        elif piece[0] in ")]}":
            depth -= 1
            if not depth:
                return piece.end()
    return 0


def _name_and_kind(source: str) -> tuple[str | None, str | None]:
    """The name that `Character(…)` gives ("" for none; None: inherited or not to be known) and its `kind`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in a game's strings
            call = ast.parse(source, mode="eval").body
            return _read_call(call) if isinstance(call, ast.Call) else (None, None)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None, None


def _read_call(call: ast.Call) -> tuple[str | None, str | None]:
    keywords = {word.arg: word.value for word in call.keywords}
    kind = call.args[1] if len(call.args) > 1 else keywords.get("kind")
    name = call.args[0] if call.args else keywords.get("name")
    kind_name = ast.unparse(kind) if isinstance(kind, ast.Name | ast.Attribute) else None
    if name is None:
        return (None, kind_name) if kind_name else ("", None)
    return _name(name, "dynamic" in keywords or ast.unparse(call.func) == "DynamicCharacter"), kind_name


def _name(node: ast.expr, dynamic: bool) -> str | None:
    if isinstance(node, ast.Call) and node.args:  # _("name")
        node = node.args[0]
    if isinstance(node, ast.Name | ast.Attribute):
        return f"{{{ast.unparse(node)}}}"
    if not isinstance(node, ast.Constant):
        return None
    if isinstance(node.value, str):
        return paired(f"{{{node.value}}}" if dynamic else clean(node.value).strip())
    return "" if node.value is None else None


def _inherited(identifier: str, names: Mapping[str, str], kinds: Mapping[str, str]) -> str:
    for _ in kinds:
        identifier = kinds.get(identifier, "")
        if identifier in names:
            break
    return names.get(identifier, "")


MARKER = re.compile(
    r"[ \t]*+(?:label[ \t]+[\w.]+.*:|menu\b.*:|translate[ \t]+\w+[ \t]+\S+:|(?:define|default)[ \t]+[\w.]+[ \t]*=.*"
    r"|image[ \t].+[=:]|jump[ \t]+\w+"
    r"|(?:init|screen|style|transform|python|scene|show|testcase|layeredimage)\b.*"
    r"|\$.*=.*|return)[ \t]*\Z"
)
SAY = re.compile(rf"[ \t]*+{WORD}{ATTRIBUTES}{STRING}[ \t]*\Z", re.DOTALL)
HEAD = 200  # non-blank lines that are looked at


def sniff(text: str) -> float:
    """The share of lines that the reader understands, if some of them are Ren'Py's alone."""
    lines = [line for line in text[: HEAD * 400].split("\n") if line.strip()][:HEAD]
    marks = sum(bool(MARKER.match(line)) for line in lines)
    says = sum(bool(SAY.match(line)) for line in lines)
    if not lines or (not marks and says * 2 < len(lines)):
        return 0.0
    rejects = sum(isinstance(item, Reject) for item in _Script("\n".join(lines), {}).items())
    understood = 1 - rejects / len(lines)
    return understood if marks else 0.8 * understood


FORMAT = Format("renpy", (".rpy", ".rpym"), sniff, read, survey)
