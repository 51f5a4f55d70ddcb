"""Formats without a mark of who speaks: Ink, NScripter, Twee, Aozora Bunko. They give narration and choices.

Some works write a name all the same, 林夏：…… in Ink and Twee or before the quotation in NScripter, which is read. Each
format takes off the markup that its engine defines; logic, commands and comments are structure.
"""

from collections import Counter
from collections.abc import Iterable, Iterator

import regex

from stages.formats.labels import find_form
from stages.formats.message import Format, Message, Options
from stages.formats.quotes import spoken, wrapped
from stages.formats.text import SPLITS

BLOCK_COMMENT = regex.compile(r"/\*.*?(?:\*/|\Z)", regex.S)

NAMED_FORMS = ("colon", "bracket", "quote")  # of plain text, sure enough for a line among an engine's
HABIT = 10  # of so many lines one has a name where the work names its speakers


def _named(messages: Iterable[Message], options: Options) -> Iterator[Message]:
    """The narration as speech of those whom its lines name, in the form that plain text would have."""
    messages = list(messages)
    told = [message.text for message in messages if message.kind == "narration"]
    form = find_form("\n".join(told), options)
    if form is None or form.name not in NAMED_FORMS:
        yield from messages
        return
    split, names = SPLITS[form.name][0], {label: name for label, name in form.names.items() if "{" not in label}
    habit = HABIT * sum(split(text)[0] in names for text in told) >= len(told)
    for message in messages:
        label, words = split(message.text)
        if habit and message.kind == "narration" and label in names and (words := words.strip()):
            words = form.manners.get(label, "") + words
            yield spoken(message.line, names[label], words, message.scene, form.mixed)
        else:
            yield message


# --- Ink: https://github.com/inkle/ink/blob/master/Documentation/WritingWithInk.md

INK_KNOT = regex.compile(r"={2,}\s*(?:function\s+)?(\w+).*")
INK_STITCH = regex.compile(r"=\s*(\w+).*")
INK_LOGIC = regex.compile(
    r"(?:VAR|CONST|LIST|INCLUDE|EXTERNAL|TODO:?)\b.*|~.*|\}+|(?:->|<-).*|\{[^}|]*:?|[\w.()<>=!&| ]++\s*+:"
)
INK_CHOICE = regex.compile(r"(?:[*+]\s*)+(?:\(\w+\)\s*)?(?:\{[^}]*\}\s*)*(.*)")
INK_GATHER = regex.compile(r"(?:-(?!>)\s*)+(?:\(\w+\)\s*)?")
INK_TAIL = regex.compile(r"(?<!\s)\s*+(?://.*|(?:->|<-)\s*+[\w.]*+(?:\s*+->.*)?|#.*)$|<>")


def read_ink(text: str, options: Options) -> Iterator[Message]:
    """Content lines and choices."""
    return _named(_ink_lines(text), options)


def _ink_lines(text: str) -> Iterator[Message]:
    knot = scene = ""
    for number, line in _lines(BLOCK_COMMENT.sub(lambda found: "\n" * found[0].count("\n"), text)):
        if found := INK_KNOT.fullmatch(line):
            knot = scene = found[1]
        elif found := INK_STITCH.fullmatch(line):
            scene = f"{knot}.{found[1]}" if knot else found[1]
        elif found := INK_CHOICE.fullmatch(line):
            yield Message(number, None, _ink_choice(found[1]), "choice", scene)
        else:
            content = INK_GATHER.sub("", line, count=1) if line[0] == "-" else line
            if not INK_LOGIC.fullmatch(content) and (words := INK_TAIL.sub("", content).strip()):
                yield Message(number, None, words, "narration", scene)


def _ink_choice(text: str) -> str:
    """What is offered, what [only] the offer shows, and what follows when it is taken, as one text."""
    return INK_TAIL.sub("", text.replace("[", "").replace("]", "")).strip() or text.strip() or "…"


def sniff_ink(text: str) -> float:
    marks = regex.findall(r"^[ \t]*(?:={2,} *\w+|-> *\w+|~ *\w+|VAR \w+ *=|[*+][ \t].*\[)", text, regex.M)
    return min(0.9, 0.1 * len(marks)) if len(marks) > 3 and regex.search(r"->|^={2,}", text, regex.M) else 0.0


# --- NScripter (0.txt, 00.txt): commands begin with ASCII letters, text does not; \ and @ wait for a click

NSCRIPTER_MARKS = regex.compile(r"[\\@/]|![swd]d?\d*|#[0-9A-Fa-f]{6}|^[`>]")


NSCRIPTER_NAMED = regex.compile(  # アトリ「, [アトリ/v1.ogg]「
    r"[`>]?(?:[\[【]([^\[\]【】/\s]{1,16})[^\[\]【】]*[\]】]|([^\s\[\]【】「」『』、。！？…（）]{1,10}))"
    r"[ 　]*(?=[「『])"
)


def read_nscripter(text: str, options: Options) -> Iterator[Message]:
    """Text lines, without commands and `;` comments, which often repeat them; names before quotations must recur."""
    rows = list(_nscripter_rows(text))
    counts = Counter(name for _, name, _ in rows)
    for row, name, said in rows:
        named = name and (counts[name] >= options.recurrence or name in options.known)
        yield spoken(row.line, name, said, row.scene, frozenset()) if named else row


def _nscripter_rows(text: str) -> Iterator[tuple[Message, str, str]]:
    """Each text line as narration, and what could be a name and its quotation in it."""
    scene = ""
    for number, line in _lines(text):
        if line[0] == "*":
            scene = line.lstrip("*").split()[0] if line.strip("*") else scene
        elif (not line[0].isascii() or line[0] in "`>![") and (words := NSCRIPTER_MARKS.sub("", line).strip()):
            found = NSCRIPTER_NAMED.match(line)
            said = NSCRIPTER_MARKS.sub("", line[found.end() :]).strip() if found else ""
            name = (found[1] or found[2]) if found and wrapped(said, "「『") else ""
            yield Message(number, None, words, "narration", scene), name, said


def sniff_nscripter(text: str) -> float:
    waits = len(regex.findall(r"^(?:\[|[^\x00-\x7f\n])[^\n]*[\\@][ \t]*$", text, regex.M))
    labels = len(regex.findall(r"^\*\w+", text, regex.M))
    tags = regex.search(r"^@|^\[(?![^\x00-\x7f])|\[[a-zA-Z]", text, regex.M)
    return 0.8 if waits > 1 and labels and not tags else 0.0


# --- Twee 3 (Twine): https://github.com/iftechfoundation/twine-specs

TWEE_PASSAGE = regex.compile(r"::\s*+((?:\\.|[^\\\[{])++)(\[[^\]]*+\])?\s*+(?:\{.*\})?")
TWEE_LINK = regex.compile(r"\[\[([^\[\]]{1,200})(?:\]\[[^\]]{0,200})?\]\]")
TWEE_MACRO = regex.compile(r"<<(?:(?!<<).)*?>>|\((?:[\w-]+):[^)]{0,1000}\)|</?[a-z][^>]{0,1000}>|\\$")
TWEE_CODE = regex.compile(r"Story(?:Data|Title|Init|Caption|Menu|Settings)|User(?:Script|Stylesheet)")


def read_twee(text: str, options: Options) -> Iterator[Message]:
    """Passage text, and the links as choices."""
    return _named(_twee_lines(text), options)


def _twee_lines(text: str) -> Iterator[Message]:
    scene, code = "", False
    for number, line in _lines(text):
        if found := TWEE_PASSAGE.fullmatch(line):
            scene, tags = found[1].rstrip(), found[2] or ""
            code = bool(TWEE_CODE.fullmatch(scene)) or "script" in tags or "stylesheet" in tags
        elif not code:
            if TWEE_MACRO.sub("", TWEE_LINK.sub("", line)).strip():
                words = TWEE_MACRO.sub("", TWEE_LINK.sub(_twee_shown, line)).strip()
                yield Message(number, None, words, "narration", scene)
            for link in TWEE_LINK.finditer(line):
                yield Message(number, None, _twee_shown(link), "choice", scene)


def _twee_shown(link: regex.Match[str]) -> str:
    """What the player sees of [[text->passage]], [[text|passage]] or [[passage<-text]]."""
    *_, after = link[1].rpartition("<-")
    return regex.split(r"->|\|", after)[0].strip()


def sniff_twee(text: str) -> float:
    return 0.9 if regex.search(r"^:: *\S", text, regex.M) and ("[[" in text or ":: StoryData" in text) else 0.0


# --- Aozora Bunko: https://www.aozora.gr.jp/annotation/

AOZORA_RUBY = regex.compile(r"(?<=[^\s　、。「」])《[^《》\n]+》|｜")
AOZORA_NOTE = regex.compile(r"［＃[^］\n]{0,500}］")


def read_aozora(text: str, options: Options) -> Iterator[Message]:
    """Lines with ruby reduced to its base text; a line that is only an annotation is a direction."""
    for number, line in _lines(text):
        if words := AOZORA_NOTE.sub("", AOZORA_RUBY.sub("", line)).strip():
            yield Message(number, None, words, "narration")
        else:
            yield Message(number, None, line, "direction")


def sniff_aozora(text: str) -> float:
    notes, ruby = text.count("［＃"), len(AOZORA_RUBY.findall(text))
    return 0.85 if (notes > 1 and ruby > 1) or ("青空文庫" in text and notes + ruby > 2) else 0.0


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Numbered lines that carry anything, without indent."""
    return ((number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip())


INK = Format("ink", (".ink",), sniff_ink, read_ink)
NSCRIPTER = Format("nscripter", (), sniff_nscripter, read_nscripter)
TWEE = Format("twee", (".twee", ".tw"), sniff_twee, read_twee)
AOZORA = Format("aozora", (), sniff_aozora, read_aozora)
