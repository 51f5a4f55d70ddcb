"""Subtitles: ASS with names in their Name field, SRT or VTT whose lines begin with `Name:`, `[Name]` or `(Name)`.

Files without any name give narration. Comments, drawings and empty events are structure. Where most events say a thing
in two writings, a line each, the writing that stands first is read and the other rejected.
"""

import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pysubs2

from stages.formats.labels import START, examine, plausible
from stages.formats.message import Format, Message, Options, Reject
from stages.formats.quotes import spoken
from stages.formats.text import Split, split_colon
from stages.formats.writings import writing_of

EVENT = {  # where an event begins, by the name pysubs2 has for the format
    "ass": re.compile(r"^(?:Dialogue|Comment):", re.M),
    "ssa": re.compile(r"^(?:Dialogue|Comment):", re.M),
    "srt": re.compile(r"^[^\n]*\d\s*-->\s*\d", re.M),
    "vtt": re.compile(r"^[^\n]*\d\s*-->\s*\d", re.M),
}
VOICE = re.compile(r"<v(?:\.[\w.]+)?[ \t]++([^>\n]{1,200})>")  # VTT: who speaks; pysubs2 drops it with the other tags
KEPT_VOICE = re.compile("\ue000(.{1,200}?)\ue001")
TAG = re.compile(r"</?[a-z][^>]{0,500}>")
DASH = re.compile(r"^[-‐–—－](?![-‐–—－])[ \t　]*")  # before each of two people in one subtitle
INSIDE = r"[^\[\](（)【】［］\n]"
BRACKETED = re.compile(rf"[\[(（【［]\s*({INSIDE}{{1,24}}?)\s*[\])）】］][ \t　]*[:：]?[ \t　]*(?=\S)")
ABOVE = re.compile(
    rf"^([\[(（【［]{INSIDE}{{1,24}}[\])）】］])\n(?![\[(（【［])", re.M
)  # a name, what it says on the next line
ALONE = re.compile(rf"[\[(（【［]({INSIDE}+)[\])）】］]")
TAGS = 1000  # in one event; pysubs2 reads all of them anew for each
ZERO_WIDTH = "\u200b"
SOUND = re.compile("[声聲音乐楽地]$")
ENGLISH_SOUND = re.compile("(?:s|ing)$", re.IGNORECASE)


class Event(NamedTuple):
    """One event that shows words: where it begins, the name it bears itself, its text."""

    line: int
    name: str
    text: str


class Said(NamedTuple):
    """What one says in an event, and whether it may go on what was said before."""

    line: int
    name: str
    text: str
    may_go_on: bool


class Labels(NamedTuple):
    """How to cut a line, label -> name, label -> the （小声） in it."""

    split: Split
    names: dict[str, str]
    manners: dict[str, str]


def read(text: str, options: Options) -> Iterator[Message | Reject]:
    """The events in the order of their time; `line` is where an event begins."""
    kind = _kind(text)
    if (most := _most_tags(text, kind)) > TAGS:
        yield Reject(1, text[:200], f"expected at most {TAGS} tags in a subtitle, got {most}")
        return
    try:
        with warnings.catch_warnings(
            action="ignore"
        ):  # a field it cannot read gets its default; the text is all we take
            events = list(pysubs2.SSAFile.from_string(VOICE.sub("\ue000\\1\ue001", text), format_=kind))
    except Exception as error:  # pysubs2 raises what its parsers meet: ValueError, IndexError, its own errors
        yield Reject(1, text[:200], f"expected {kind} subtitles, got {type(error).__name__}: {error}")
        return
    lines = _line_numbers(text, kind)
    if len(lines) != len(events):
        yield Reject(1, text[:200], f"expected {len(lines)} {kind} events, got {len(events)}")
        lines = [1] * len(events)
    timed = sorted(zip(lines, events, strict=True), key=lambda item: item[1].start)
    shown = [Event(line, *_said(event)) for line, event in timed if not _unseen(event)]
    if twice := _said_twice(shown):
        parted = [_apart(event, twice) for event in shown]
        shown = [event for event, _ in parted]
        yield from (reject for _, reject in parted if reject)
    yield from _messages(shown, options)


def _said_twice(shown: Sequence[Event]) -> tuple[str, str] | None:
    """The two writings of most events, the upper first, if most have a line in each."""
    events = [event.text.split("\n") for event in shown]
    pairs = Counter((writing_of(lines[0]), writing_of(lines[1])) for lines in events if len(lines) == 2)
    pair, count = max(pairs.items(), key=lambda item: item[1], default=(("", ""), 0))
    return pair if all(pair) and pair[0] != pair[1] and 2 * count > len(shown) else None


def _apart(event: Event, twice: tuple[str, str]) -> tuple[Event, Reject | None]:
    """The event without its lines in the second writing, unless they are all it has, and those lines."""
    kept, other = twice
    lines = event.text.split("\n")
    second = [line for line in lines if writing_of(line) == other]
    if not second or len(second) == len(lines):
        return event, None
    reason = f"a second language: {other} below {kept} in most subtitles, whose upper language is read"
    first = "\n".join(line for line in lines if writing_of(line) != other)
    return event._replace(text=first), Reject(event.line, "\n".join(second), reason)


def _messages(shown: Sequence[Event], options: Options) -> Iterator[Message]:
    """With the event's name, else with that of a label in its text, else, mid-sentence, with that of the one before."""
    lines = [DASH.sub("", line) for event in shown if not event.name for line in event.text.split("\n")]
    labels = _labels(lines, options)
    said = [part for event in shown for part in _said_by(event, labels)]
    ends = [part.text[-1] for part in said if part.name]
    unended = not any(event.name for event in shown) and 2 * sum(map(_goes_on, ends)) < len(ends)
    before = ""
    for part in said:
        name = part.name or (before if part.may_go_on and part.text[0].isalnum() else "")
        before = name if unended and _goes_on(part.text[-1]) else ""
        if name:
            yield spoken(part.line, name, part.text, "", frozenset())
        else:
            yield Message(part.line, None, part.text, "narration")


def _said_by(event: Event, labels: Labels) -> Iterator[Said]:
    """What an event says, apart by its speakers."""
    if event.name:
        yield Said(event.line, event.name, event.text, may_go_on=False)
        return
    may_go_on = not DASH.match(event.text)
    for part in _parts(event.text, labels):
        label, rest = labels.split(part)
        named = label in labels.names
        words = rest.strip() if named else part
        if words:
            yield Said(event.line, labels.names.get(label, ""), labels.manners.get(label, "") + words, may_go_on)
        may_go_on = False


def _goes_on(last: str) -> bool:
    """Whether a sentence is not over at this character."""
    return last.isalnum() or last in "，,、；;"


def _labels(lines: list[str], options: Options) -> Labels:
    """The way of labelling that names most lines, if it names some."""
    colon, brackets = examine("colon", START + "\n".join(lines), len(lines), options), _bracketed(lines, options)
    if sum(brackets.values()) > (colon[0] if colon else 0):
        return Labels(split_brackets, {name: name for name in brackets}, {})
    if colon is None:
        return Labels(split_colon, {}, {})
    often = 20 * colon[0] > len(lines)
    names = {label: name for label, name in colon[1].names.items() if often or name.isupper()}
    return Labels(split_colon, names, colon[1].manners)


def _bracketed(lines: list[str], options: Options) -> Counter[str]:
    """Names in brackets and their lines; what stands alone there too, or reads like one, is a sound: [sighs]."""
    found = Counter(label for line in lines if (label := split_brackets(line)[0]))
    sounds = {label[1].strip() for line in lines if (label := ALONE.fullmatch(line))}
    often = 10 * found.total() > len(lines)
    sounds |= {label for label in found if SOUND.search(label) or label[0].islower() or not plausible(label)}
    sounds |= {label for label in found if not often and ENGLISH_SOUND.search(label)}
    names = {label for label, count in found.items() if count >= options.recurrence or (often and not label.isascii())}
    return Counter({label: found[label] for label in found if label in options.known or label in names - sounds})


def split_brackets(line: str) -> tuple[str, str]:
    """The name in brackets and what follows it."""
    found = BRACKETED.match(line)
    return (found[1], line[found.end() :]) if found else ("", line)


def _parts(text: str, labels: Labels) -> list[str]:
    """An event's lines, apart where each begins with a name or a dash, else together."""
    parts: list[str] = []
    for line in text.split("\n"):
        said = DASH.sub("", line)
        if parts and said == line and labels.split(said)[0] not in labels.names:
            parts[-1] += "\n" + line
        elif said:
            parts.append(said)
    return parts


def _said(event: pysubs2.SSAEvent) -> tuple[str, str]:
    voice = KEPT_VOICE.search(event.text)
    text = TAG.sub("", KEPT_VOICE.sub("", event.plaintext)).replace(ZERO_WIDTH, "")
    name = event.name or (voice[1] if voice else "")
    return name.strip(), ABOVE.sub(r"\1", "\n".join(line.strip() for line in text.split("\n") if line.strip()))


def _unseen(event: pysubs2.SSAEvent) -> bool:
    return event.is_comment or event.is_drawing or not event.plaintext.strip()


def _kind(text: str) -> str:
    if "[Script Info]" in text or "[Events]" in text or re.search(r"^Dialogue:", text, re.M):
        return "ass" if "[V4 Styles]" not in text else "ssa"
    return "vtt" if text.startswith("WEBVTT") else "srt"


def _most_tags(text: str, kind: str) -> int:
    """How many tags the event with most of them may have; one of ASS is a line."""
    events = EVENT[kind].split(text)[1:]
    if kind in ("ass", "ssa"):
        events = [event.partition("\n")[0] for event in events]
    return max((event.count("{") + event.count("<") for event in events), default=0)


def _line_numbers(text: str, kind: str) -> list[int]:
    numbers, line, counted = [], 1, 0
    for found in EVENT[kind].finditer(text):
        line, counted = line + text.count("\n", counted, found.start()), found.start()
        numbers.append(line)
    return numbers


def sniff(text: str) -> float:
    """By the headers and time stamps."""
    if text.startswith("WEBVTT") or "[Script Info]" in text[:4096]:
        return 1.0
    stamps = len(re.findall(r"^\d{1,2}:\d{2}:\d{2}[,.]\d{3} --> ", text, re.M))
    return min(1.0, 0.3 * stamps)


FORMAT = Format("subtitles", (".ass", ".ssa", ".srt", ".vtt"), sniff, read)
