"""Plain script text in which a speaker is named beside what they say.

A file has one form, the one that labels most of its lines; what the other forms mark is narration there.

    colon    夏生：早。 / ROMEO: Good morrow. / NAME: on a line of its own, the text below it until a blank line
    tab      亚托莉<TAB>早。 (a line that begins with the tab is narration)
    bracket  【亚托莉】「早。」 / [夏生]“早。”, the text on the same line or below
    quote    亚托莉「早。」
    space    亚托莉　（走近）早。
    dot      ROMEO. Good morrow. / ROMEO. on a line of its own
    above    亚托莉 on a line of its own after a blank one, 「早。」 below it

Outer quotes that wrap the whole message belong to the form and come off; line breaks inside a message stay. A play
sets what goes on with a speech below its label, indented, and all else at the margin.
"""

import re
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial

from stages.formats.adornments import unadorned
from stages.formats.labels import BRACKET, DOTTED, START, Form, find_form, labelled, nonblank, survey, unwrapped
from stages.formats.marks import CHOICE, DATE, FIRST, ITEM, SEPARATOR, TITLE
from stages.formats.message import Format, Message, Options, Reject
from stages.formats.quotes import QUOTES, SOME, WRAPS, spoken, wrapped

GAP = re.compile(r"[ 　]{4,}")
NAME_AND_STOP = re.compile(DOTTED)
JOINED = 30  # lines that an open quote may run on
LONGEST_LABEL = 200  # characters of a name and what stands around it; to copy all that follows takes the square
INDENTED = re.compile(r"^[ \t　]+\S", re.MULTILINE)
AT_MARGIN = ("colon", "bracket", "space")  # forms with labels there; to `tab` an indent is narration
NEARLY = 10  # one in so many is a slip

Split = Callable[[str], tuple[str, str]]


def read(text: str, options: Options) -> Iterator[Message | Reject]:
    """Messages of a text in its own form; without any name every line is narration."""
    text = unadorned(text)
    form = find_form(text, options)
    lines = text.split("\n")
    if form is None:
        return read_plain(lines)
    hanging = form.name in AT_MARGIN and bool(INDENTED.search(text)) and hangs(lines, form)
    return Reading(lines, form, hanging).messages()


def hangs(lines: list[str], form: Form) -> bool:
    """Whether indented lines go on with the speech above them: where labels and narration are at the margin.

    In prose narration is indented: there indented lines follow narration too, or are more than those at the margin.
    """
    split, below = SPLITS[form.name][0], False
    seen: Counter[str] = Counter()
    for line in lines:
        named, indented = split(line)[0] in form.names, line[:1].isspace()
        if line.strip():
            below = (named and not closed(line)) or (below and indented)
            seen["hanging" if below and not named else "stray" if indented else "label" if named else "margin"] += 1
        else:
            below = False
    return SOME <= seen["hanging"] <= seen["margin"] and seen["stray"] * NEARLY <= seen["hanging"]


def read_plain(lines: Iterable[str]) -> Iterator[Message]:
    """A text that names nobody."""
    for number, line in enumerate(lines, 1):
        if line and (text := line.strip()):
            yield Message(number, None, text, "narration")


def split_colon(line: str) -> tuple[str, str]:
    """The label as written and what follows the first colon of either width."""
    full, half = line.find("："), line.find(":")
    at = half if full < 0 or 0 <= half < full else full
    return (line[:at], line[at + 1 :]) if at >= 0 else ("", line)


def split_tab(line: str) -> tuple[str, str]:
    label, tab, body = line.partition("\t")
    return (label, body) if tab else ("", line)


def split_bracket(line: str) -> tuple[str, str]:
    found = BRACKET.match(line)
    return (found[0], line[found.end() :].lstrip("：: \t　")) if found else ("", line)


def split_quote(line: str) -> tuple[str, str]:
    at = min((at for mark in "「『“" if (at := line.find(mark)) > 0), default=0)
    return line[:at], line[at:]


def split_space(line: str) -> tuple[str, str]:
    label = line[: min((at for mark in " 　\t" if (at := line.find(mark)) >= 0), default=0)]
    return label, line[len(label) :]


def split_dot(line: str) -> tuple[str, str]:
    found = NAME_AND_STOP.match(line + "\n")
    return (found[0], line[found.end() :]) if found else ("", line)


def split_above(line: str) -> tuple[str, str]:
    return line, ""


# How to cut a line, and two marks one of which it must hold; "" stands in any line.
SPLITS: dict[str, tuple[Split, str, str]] = {
    "colon": (split_colon, "：", ":"),
    "tab": (split_tab, "\t", "\t"),
    "bracket": (split_bracket, "\n", ""),
    "quote": (split_quote, "\n", ""),
    "space": (split_space, "　", " "),
    "dot": (split_dot, ".", "."),
    "above": (split_above, "\n", ""),
}


def closed(line: str) -> bool:
    """Whether a line ends with its quotation: nothing goes on with that."""
    return line.rstrip()[-1:] in QUOTES.values()


def is_mark(text: str) -> bool:
    """Whether a line says nothing: a scene's mark or title, a date, a direction in brackets."""
    marks = (SEPARATOR, TITLE, DATE, CHOICE, BRACKET)
    return any(mark.fullmatch(text) for mark in marks) or wrapped(text, "（(")


class Scenes:
    """The scene that is open: the last title, or a number where the file only separates."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.title = ""
        self.parts: Counter[str] = Counter({"": 1})  # title -> scenes under it so far
        self.name = "1" if any(map(SEPARATOR.fullmatch, lines)) else ""

    def mark(self, text: str) -> bool:
        """Open a scene if the line is a mark of one."""
        if not SEPARATOR.fullmatch(text):
            title = TITLE.fullmatch(unwrapped(text))
            if title is None:
                return False
            self.title = title["marked"] or title[0]
        self.parts[self.title] += 1
        part = self.parts[self.title]
        number = str(part) if not self.title else f"({part})" if part > 1 else ""
        self.name = f"{self.title} {number}".strip()
        return True


class Reading:
    """One file while it is read."""

    def __init__(self, lines: list[str], form: Form, hanging: bool) -> None:
        self.lines = lines
        self.form = form
        self.hanging = hanging  # indented lines go on with the speech above them
        self.split, self.mark, self.other_mark = SPLITS[form.name]
        self.scenes = Scenes(lines)
        self.choosing = False

    def messages(self) -> Iterator[Message | Reject]:
        """One pass; a plain labelled line, which most are, takes the first branch."""
        split, mark, other, names = self.split, self.mark, self.other_mark, self.form.names
        paragraphs, scene = self.form.paragraphs, self.scenes.name
        make = partial(
            tuple.__new__, Message
        )  # a Message without the call into Python, of which there would be millions
        closer = paragraphs or self.hanging
        plain = {} if closer else {label: name for label, name in names.items() if label not in self.form.manners}
        done, blank = 0, True
        for number, line in enumerate(self.lines, 1):
            if number <= done:
                continue
            label, found, body = line.partition(mark)
            if (
                (name := plain.get(label))
                and (body := body.strip())
                and body[0] not in WRAPS
                and not (("  " in body or "　　" in body) and GAP.search(body))
            ):
                yield make((number, name, body, "speech", scene))
                continue
            if (found or other in line) and (blank or not paragraphs):
                label, body = split(line)
                if label in names:
                    done = yield from self.speech(number, label, body.strip())
                    blank = False
                    continue
            text = line.strip()
            blank = not text
            if text and (text[0] in FIRST or self.choosing):
                yield from self.unlabelled(number, text)
                scene = self.scenes.name
            elif text:
                yield make((number, None, text, "narration", scene))

    def speech(self, index: int, label: str, body: str) -> Generator[Message | Reject, None, int]:
        """A message that needs a closer look: quoted, glued, in brackets, or with its text below; returns its end."""
        number, name = index, self.form.names[label]
        if not body or self.form.name == "dot":
            index, below = self.below(index)
            body = "\n".join(filter(None, (body, below)))
        elif self.left_open(body):
            index, body = self.run_on(index, body)
        if self.hanging and not closed(body):
            index, body = self.hung(index, body)
        if not body:
            yield Reject(number, self.lines[number - 1].strip(), "a name without words")
            return index
        for speaker, part in self.unglue(name, self.form.manners.get(label, "") + body):
            if part:
                yield spoken(number, speaker, part, self.scenes.name, self.form.mixed)
            else:
                yield Reject(number, speaker, "a name without words")
        return index

    def below(self, index: int) -> tuple[int, str]:
        """The text under a label: to the blank line where the file has paragraphs, else one line or one quotation."""
        if self.form.paragraphs:
            end = index
            while end < len(self.lines) and self.lines[end].strip():
                end += 1
            return end, "\n".join(line.strip() for line in self.lines[index:end])
        line = self.lines[index].strip() if index < len(self.lines) else ""
        if not line or self.split(line)[0] in self.form.names:
            return index, ""
        return self.run_on(index + 1, line) if self.left_open(line) else (index + 1, line)

    def left_open(self, body: str) -> bool:
        return body[0] in QUOTES and QUOTES[body[0]] not in body[1:]

    def run_on(self, index: int, body: str) -> tuple[int, str]:
        """A quotation that its line leaves open goes on to the line that closes it; where none does, it was a slip."""
        close, parts = QUOTES[body[0]], [body]
        for end in range(index, min(index + JOINED, len(self.lines))):
            line = self.lines[end].strip()
            if not line or self.split(line)[0] in self.form.names:
                break
            parts.append(line)
            if close in line:
                return end + 1, "\n".join(parts)
        return index, body

    def hung(self, index: int, body: str) -> tuple[int, str]:
        """The speech with the indented lines below it, up to a label or a line that is a mark or a direction."""
        parts = [body]
        for line in self.lines[index:]:
            text = line.strip()
            if not text or not line[0].isspace() or self.split(line)[0] in self.form.names or is_mark(text):
                break
            parts.append(text)
        return index + len(parts) - 1, "\n".join(filter(None, parts))

    def unglue(self, name: str, body: str) -> Iterator[tuple[str, str]]:
        """`…    夏生：…`: a second message on the line, where a run of spaces and a known name leave no doubt."""
        start = 0
        for gap in GAP.finditer(body):
            head = body[gap.end() : gap.end() + LONGEST_LABEL]
            label, rest = self.split(head)
            if label and label in self.form.names:
                yield name, body[start : gap.start()].strip()
                name, start = self.form.names[label], gap.end() + len(head) - len(rest)
        yield name, body[start:].strip()

    def unlabelled(self, number: int, text: str) -> Iterator[Message]:
        """A scene mark (no message, it opens a scene), a date, a choice, a thought, a direction, or narration."""
        self.choosing = self.choosing and bool(ITEM.fullmatch(text))
        if not self.choosing and self.scenes.mark(text):
            return
        if self.choosing or CHOICE.fullmatch(text):
            self.choosing = True
            kind = "choice"
        elif DATE.fullmatch(text) or wrapped(text, "(") or BRACKET.fullmatch(text):
            kind = "direction"
        else:
            kind = "thought" if wrapped(text, "（") else "narration"
        yield Message(number, None, text, kind, self.scenes.name)


def sniff(text: str) -> float:
    """Surer the more of the lines carry a name."""
    text = unadorned(text)
    form = find_form(text, Options({}, "", "", frozenset()))
    if form is None:
        return 0.1
    lines = sum(count for (label, _), count in labelled(form.name, START + text).items() if label in form.names)
    return 0.3 + 0.5 * min(1.0, lines / max(1, nonblank(text)))


FORMAT = Format("text", (".txt", ".text", ".log", ".md"), sniff, read, survey, heir="webgal")  # scenes without commands
