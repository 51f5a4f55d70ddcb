"""WebGAL scenes (.txt): `name:text -argument;`, a line without a name continues the speaker, `:text;` is narration.

`choose:text:target|text:target;` offers choices, `label:x;` names a scene, `text -concat;` goes on with the message.
"""

from collections.abc import Iterator

import regex

from stages.formats.kinds import head_lines, no_speaker, said, wide_labels
from stages.formats.message import Format, Message, Options, Reject

WORDS = """changeBg changeFigure bgm playVideo pixiPerform pixiInit intro miniAvatar changeScene choose end label pixi
    setComplexAnimation setFilter chooseLabel setVar if callScene showVars unlockCg unlockBgm filmMode setTextbox wait
    setAnimation playEffect setTempAnimation setTransform setTransition getUserInput applyStyle callSteam comment video
    setEffect jumpLabel"""
COMMANDS = frozenset(WORDS.split())
STATEMENT = regex.compile(r"((?:[^\\;]|\\.?)*+)")
UNESCAPED_BAR = regex.compile(r"(?<!\\)\|")
UNESCAPED_COLON = regex.compile(r"(?<!\\):")
ENHANCED = regex.compile(r"(?<!\\)\[([^\[\]\\]*+)\]\((?:[^()\\]|\\.|\([^()]*+\))*+\)")  # [base](ruby), [text](style=…)
ESCAPE = regex.compile(r"\\([:,.;|{}\[\]()\\])")
CONTINUED = regex.compile(r" +[|-]")
CONFIG = regex.compile(r"^Game_(?:name|key)\s*:", regex.MULTILINE)  # config.txt of a game: `key:value;`, nobody speaks


def read(text: str, options: Options) -> Iterator[Message | Reject]:
    """Yield the messages in file order; a `-concat` line is part of the message it continues."""
    held: Message | None = None
    wide = wide_labels(text)
    for message, continues in _messages(text):
        if held and continues and message.kind != "choice":
            held = held._replace(text=held.text + message.text)
            continue
        if held:
            yield whole(held)
        held = message
        if reason := no_speaker(message.text, wide):
            yield Reject(message.line, message.text, reason)
    if held:
        yield whole(held)


def whole(held: Message) -> Message:
    """A message once nothing continues it."""
    return held if held.kind == "choice" else said(held.line, held.speaker, held.text, held.scene)


def _messages(text: str) -> Iterator[tuple[Message, bool]]:
    """Each message, and whether it continues the one before; what nobody chooses is speech as yet."""
    scene, speaker = "", ""
    for number, line in _statements("" if CONFIG.search(text) else text):
        statement = STATEMENT.match(line)[1].replace("\\;", ";")
        head, colon, body = statement.partition(":")
        content, arguments = _arguments(body if colon else head)
        command = head.strip() if colon else content
        if command == "label":
            scene = content
        elif command == "choose":
            for option in UNESCAPED_BAR.split(content):
                if choice := _plain(UNESCAPED_COLON.split(option.rpartition("->")[2])[0]).strip():
                    yield Message(number, None, choice, "choice", scene), False
        elif command not in COMMANDS:
            if "clear" in arguments:
                speaker = ""
            elif command == "say" and colon:
                speaker = arguments.get("speaker", speaker)
            elif colon:
                speaker = command
            if words := _plain(content).strip():
                yield Message(number, speaker or None, words, "speech", scene), "concat" in arguments


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Lines, each with those that continue it: indented ones with `|` or `-` first, and one after a backslash."""
    parts: list[str] = []
    first = 0
    for number, line in enumerate(text.split("\n"), 1):
        line = line.rstrip()
        continues = parts and ((CONTINUED.match(line) and "-concat" not in line) or parts[-1].endswith("\\"))
        if not continues:
            if parts:
                yield first, "".join(parts)
            parts, first = [], number
        if parts:
            parts[-1] = parts[-1].removesuffix("\\")
            line = line.strip() if line.lstrip().startswith("|") else " " + line.strip()
        if line:
            parts.append(line)
    if parts:
        yield first, "".join(parts)


def _arguments(content: str) -> tuple[str, dict[str, str]]:
    """The content and its ` -name=value` arguments."""
    content, *arguments = content.split(" -")
    pairs = (argument.partition("=") for argument in arguments)
    return content.strip(), {name.strip(): value.strip() for name, _, value in pairs}


def _plain(content: str) -> str:
    """Ruby and style leave their base text; `|` breaks the line."""
    if "[" in content:
        content = ENHANCED.sub(r"\1", content)
    if "|" in content:
        content = UNESCAPED_BAR.sub("\n", content)
    return ESCAPE.sub(r"\1", content) if "\\" in content else content


KNOWN = regex.compile(r"(?:" + "|".join(sorted(COMMANDS)) + r")(?::|;|\s*\Z)")
SAID = regex.compile(r"[^;:]{0,40}:[^;]+;|[^;]+;\s*\Z|;")


def sniff(text: str) -> float:
    """Commands of this engine leave little doubt; the rest by the lines that are such, end in `;` or name a speaker."""
    lines = head_lines(text)
    if any(map(CONFIG.match, lines)):
        return 1.0
    lines = [line.strip() for line in lines]
    known = sum(bool(KNOWN.match(line)) for line in lines)
    if not known or (4 * known < len(lines) and known < 1 + len(lines) / 50):
        return 0.0
    return 0.85 + 0.1 * sum(bool(KNOWN.match(line) or SAID.match(line)) for line in lines) / len(lines)


FORMAT = Format("webgal", (".txt",), sniff, read)
