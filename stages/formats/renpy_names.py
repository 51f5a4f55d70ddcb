"""What the files of a Ren'Py game define: characters' names, statements, labels, translations."""

import ast
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise

from stages.formats.renpy_tokens import (
    JOINS,
    NOT_SAID,
    PIECE,
    SILENT,
    STRING,
    TRANSLATE,
    WORD,
    clean,
    label_of,
    paired,
    string_text,
)

# What the survey learns beside names, under these prefixes:
STATEMENT = "statement:"  # the first word of a creator-defined statement
LABELLED = "label:"  # a label of the scripts, as identifiers of translations spell it
TRANSLATED = "translated:"  # language and label, or language and string
LANGUAGE = "language:"  # with nothing after it: the language that most translations are in

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
    `language:` tell which translations say nothing new (see renpy.said_twice); `translated:` keys what is in which
    language; `{variable}` is the text that it always holds.
    """
    names: dict[str, str] = {}
    kinds: dict[str, str] = {}
    languages: Counter[str] = Counter()
    values: dict[str, str] = {}
    for text in texts:
        _note_names(text, names, kinds)
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
    known = {f"{{{variable}}}": value for variable, value in values.items() if value}
    return known | {
        identifier: VARIABLE.sub(lambda found: known.get(found[0], found[0]), name)
        for identifier, name in names.items()
    }


def _note_names(text: str, names: dict[str, str], kinds: dict[str, str]) -> None:
    """Note the name that each definition gives, or the character whose name it inherits."""
    for identifier, call in _definitions(text):
        name, kind = _name_and_kind(call)
        if name is not None and not names.get(identifier):
            names[identifier] = name
        elif kind and identifier not in names:
            kinds.setdefault(identifier, kind)


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
