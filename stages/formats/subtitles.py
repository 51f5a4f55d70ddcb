"""Subtitles: ASS with names in their Name field, and SRT or VTT whose lines begin with `Name:`.

Files without any name give narration. Comments, drawings and empty events are structure.
"""

import re
import warnings
from collections.abc import Iterator

import pysubs2

from stages.formats.labels import find_form
from stages.formats.message import Format, Message, Options, Reject
from stages.formats.quotes import spoken
from stages.formats.text import split_colon

EVENT = {  # where an event begins, by the name pysubs2 has for the format
    "ass": re.compile(r"^(?:Dialogue|Comment):", re.M),
    "ssa": re.compile(r"^(?:Dialogue|Comment):", re.M),
    "srt": re.compile(r"^[^\n]*\d\s*-->\s*\d", re.M),
    "vtt": re.compile(r"^[^\n]*\d\s*-->\s*\d", re.M),
}
VOICE = re.compile(r"<v(?:\.[\w.]+)?[ \t]+([^>\n]+)>")  # VTT: who speaks; pysubs2 drops it with the other tags
KEPT_VOICE = re.compile("\ue000(.+?)\ue001")
TAG = re.compile(r"</?[a-z][^>]*>")


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
    """With names from the events, else from labels in their texts."""
    form = None if any(name for _, name, _ in shown) else find_form("\n".join(text for _, _, text in shown), options)
    names = form.names if form and form.name == "colon" else {}
    for line, name, text in shown:
        for part in _split_speakers(text, names):
            label, rest = split_colon(part)
            speaker = name or names.get(label)
            body = rest.strip() if not name and label in names else part
            if speaker and body:
                yield spoken(line, speaker, body, "", frozenset())
            elif body:
                yield Message(line, None, body, "narration")


def _split_speakers(text: str, names: dict[str, str]) -> list[str]:
    """An event's lines, apart where each begins with a name, else together."""
    parts: list[str] = []
    for line in text.split("\n"):
        label = split_colon(line)[0]
        if parts and label not in names:
            parts[-1] += "\n" + line
        else:
            parts.append(line)
    return parts


def _said(event: pysubs2.SSAEvent) -> tuple[str, str]:
    voice = KEPT_VOICE.search(event.text)
    text = TAG.sub("", KEPT_VOICE.sub("", event.plaintext))
    name = event.name or (voice[1] if voice else "")
    return name.strip(), "\n".join(line.strip().removeprefix("- ") for line in text.split("\n") if line.strip())


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
