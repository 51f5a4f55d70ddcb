"""Subtitles: ASS with names in their Name field, SRT or VTT whose lines begin with `Name:`, `[Name]` or `(Name)`.

Files without any name give narration. Comments, drawings and empty events are structure.
"""

import re
import warnings
from collections import Counter
from collections.abc import Iterator

import pysubs2

from stages.formats.labels import START, examine, plausible
from stages.formats.message import Format, Message, Options, Reject
from stages.formats.quotes import spoken
from stages.formats.text import Split, split_colon

EVENT = {  # where an event begins, by the name pysubs2 has for the format
    "ass": re.compile(r"^(?:Dialogue|Comment):", re.M),
    "ssa": re.compile(r"^(?:Dialogue|Comment):", re.M),
    "srt": re.compile(r"^[^\n]*\d\s*-->\s*\d", re.M),
    "vtt": re.compile(r"^[^\n]*\d\s*-->\s*\d", re.M),
}
VOICE = re.compile(r"<v(?:\.[\w.]+)?[ \t]+([^>\n]+)>")  # VTT: who speaks; pysubs2 drops it with the other tags
KEPT_VOICE = re.compile("\ue000(.+?)\ue001")
TAG = re.compile(r"</?[a-z][^>]*>")
DASH = re.compile(r"^[-‐–—－](?![-‐–—－])[ \t　]*")  # before each of two people in one subtitle
INSIDE = r"[^\[\](（)【】［］\n]"
BRACKETED = re.compile(rf"[\[(（【［]\s*({INSIDE}{{1,24}}?)\s*[\])）】］][ \t　]*[:：]?[ \t　]*(?=\S)")
ABOVE = re.compile(
    rf"^([\[(（【［]{INSIDE}{{1,24}}[\])）】］])\n(?![\[(（【［])", re.M
)  # a name, what it says on the next line
ALONE = re.compile(rf"[\[(（【［]({INSIDE}+)[\])）】］]")
ZERO_WIDTH = "\u200b"
SOUND = re.compile("[声聲音乐楽地]$")
ENGLISH_SOUND = re.compile("(?:s|ing)$", re.IGNORECASE)


def read(text: str, options: Options) -> Iterator[Message | Reject]:
    """The events in the order of the file; `line` is where an event begins."""
    kind = _kind(text)
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
    shown = [(line, *_said(event)) for line, event in zip(lines, events, strict=True) if not _unseen(event)]
    yield from _messages(sorted(shown, key=lambda item: item[0]), options)


def _messages(shown: list[tuple[int, str, str]], options: Options) -> Iterator[Message]:
    """With the event's name, else with that of a label in its text."""
    lines = [DASH.sub("", line) for _, name, text in shown if not name for line in text.split("\n")]
    split, names = _labels(lines, options)
    for line, name, text in shown:
        for part in [text] if name else _parts(text, split, names):
            label, rest = split(part)
            speaker = name or names.get(label)
            body = rest.strip() if not name and label in names else part
            if speaker and body:
                yield spoken(line, speaker, body, "", frozenset())
            elif body:
                yield Message(line, None, body, "narration")


def _labels(lines: list[str], options: Options) -> tuple[Split, dict[str, str]]:
    """The way of labelling that names most lines, if it names some: how to cut a line, and label -> name."""
    colon, brackets = examine("colon", START + "\n".join(lines), len(lines), options), _bracketed(lines, options)
    if sum(brackets.values()) > (colon[0] if colon else 0):
        return split_brackets, {name: name for name in brackets}
    if colon is None:
        return split_colon, {}
    often = 20 * colon[0] > len(lines)
    return split_colon, {label: name for label, name in colon[1].names.items() if often or name.isupper()}


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


def _parts(text: str, split: Split, names: dict[str, str]) -> list[str]:
    """An event's lines, apart where each begins with a name or a dash, else together."""
    parts: list[str] = []
    for line in text.split("\n"):
        said = DASH.sub("", line)
        if parts and said == line and split(said)[0] not in names:
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
