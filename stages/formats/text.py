"""Plain script text in which a speaker is named beside what they say.

A file has one form, the one that labels most of its lines; what the other forms mark is narration there.

    colon    夏生：早。 / ROMEO: Good morrow. / NAME: on a line of its own, the text below it until a blank line
    tab      亚托莉<TAB>早。 (a line that begins with the tab is narration)
    bracket  【亚托莉】「早。」 / [夏生]“早。”, the text on the same line or below
    quote    亚托莉「早。」
    above    亚托莉 on a line of its own, 「早。」 below it

A label is a name if it recurs, if the alias map knows it, or if the form leaves no doubt; other labels are prose with a
colon and stay narration. Outer quotes that wrap the whole message belong to the form and are taken off.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from stages.formats.message import Format, Message, Options, Reject

NAME = r"[^\s：:「」『』“”\"…。！!，,；;][^：:\n\t「」『』“”\"…。！!，,；;]{0,39}"
LABELS = {
    "colon": re.compile(rf"^([ \t　]*{NAME})[：:][ \t　]*(.?)", re.M),
    "tab": re.compile(rf"^({NAME})\t[ \t　]*(.?)", re.M),
    "bracket": re.compile(r"^([ \t　]*[【\[［][^】\]］\n]{1,40}[】\]］])[：:]?[ \t　]*(.?)", re.M),
    "quote": re.compile(rf"^([ \t　]*{NAME})([「『“])[^\n]*[」』”][ \t　]*$", re.M),
    "above": re.compile(r"(?:^|\n)(?:[ \t　]*\n|(?<![^\n]))([ \t　]*[^\s「『“（(][^\n：:。！，…「」]{0,30})\n[ \t　]*(?=([「『“\"]))"),
}
BRACKET = re.compile(r"[ \t　]*[【\[［]([^】\]］\n]{1,40})[】\]］]")
QUOTES = {"「": "」", "『": "』", "“": "”", '"': '"', "‘": "’"}
WRAPS = {**QUOTES, "（": "）", "(": ")"}
GAP = re.compile(r"[ 　]{4,}")
JOINED = 30  # lines that an open quote may run on

NUMERAL = "[0-9０-９一二三四五六七八九十百千零〇两]{1,6}"
SEPARATOR = re.compile(r"[ \t　]*([※＊*◆◇■□●○★☆▼▲◎=＝\-－~～_＿])(?:[ \t　]*\1){2,}[ \t　]*")
TITLE = re.compile(
    rf"(?:[◆◇■□▼▽§★☆#＃]+[ \t　]*(?P<marked>\S.{{0,60}})"
    rf"|(?P<numbered>第{NUMERAL}[幕章话話回节節场場卷部](?:[\s　:：·—].{{0,40}})?"
    r"|(?:序章|序幕|终章|終章|尾声|尾聲|楔子|幕间|幕間|番外)(?:[\s　:：·—].{0,40})?"
    r"|(?:ACT|SCENE|CHAPTER|PART|Act|Scene|Chapter|Part)[ ][IVXLC\d]+\b.{0,60}|(?:PROLOGUE|EPILOGUE|Prologue|Epilogue)))"
)
DATE = re.compile(
    r"(?:[\d×]{1,4}[/.\-年])?[\d×]{1,2}[/.\-月][\d×]{1,2}日?(?:\s*[（(].{1,3}[）)])?(?:\s*星期.|\s*周.)?(?:\s*\d{1,2}[:：]\d{2})?"
)
CHOICE = re.compile(rf"(?:选项|選項|選択肢|分支)[ 　]*(?:{NUMERAL}|[A-Da-d])?[ 　]*(?:[：:．.、].*)?")
ITEM = re.compile(r"(?:[0-9１-９A-Da-d①-⑨][.、．：:)）]|[①-⑨▷▶→])[ 　]*\S.*")
SETTING = frozenset("时间 地点 场景 背景 音乐 音效 画面 镜头 旁注 备注 注 时間 場所 BGM BG SE CG".split())
PROSE_ENDINGS = re.compile(r"(?:写着|写道|写|说|說|道|问|問|喊|叫|答|想|着|是|为|如下|说明|注)$")
SPECIAL = frozenset("※＊*◆◇■□●○★☆▼▲▽◎§#＃=＝-－~～_＿第序终終尾楔幕番ACSPEacspe0123456789×（(选選分①②③④⑤⑥⑦⑧⑨▷▶→１２３４５６７８９【［[BDbd")


class Form(NamedTuple):
    """How a file names its speakers: the names it uses (label as written -> name) and where its lines stand."""

    name: str
    names: dict[str, str]
    paragraphs: bool  # a label stands after a blank line, and its text runs to the next one
    mixed: frozenset[str]  # names with prose under them too: there the quotes decide what is spoken


Split = Callable[[str], tuple[str, str]]


# --- which form, which names


def find_form(text: str, options: Options) -> Form | None:
    """The form that labels most lines, or None where none labels any."""
    forms = [form for name in LABELS if (form := _examine(name, text, options))]
    if not forms:
        return None
    return max(forms, key=lambda found: found[0])[1]


def _examine(name: str, text: str, options: Options) -> tuple[int, Form] | None:
    """A form's labelled lines and what it would read, or None."""
    found = Counter(LABELS[name].findall(text))
    labels: Counter[str] = Counter()
    for (label, _), count in found.items():
        labels[label] += count
    bare = sum(count for (_, first), count in found.items() if not first)
    names = _names(name, labels, text, options, play=2 * bare > labels.total())
    lines = sum(labels[label] for label in names)
    if not lines:
        return None
    paragraphs = _paragraphs(name, names, text)
    return lines, Form(name, names, paragraphs, _mixed(found, names))


def _names(form: str, labels: Counter[str], text: str, options: Options, *, play: bool) -> dict[str, str]:
    """The labels that are names, as written -> as a name."""
    clean = {label: clean_name(label) for label in labels}
    counts: Counter[str] = Counter()
    for label, count in labels.items():
        counts[clean[label]] += count
    sure = {name for name in counts if name in options.known or name in options.names}
    likely = {name for name in counts.keys() - sure if plausible(name)}
    recurring = sure | {name for name in likely if counts[name] >= options.recurrence}
    dense = sum(counts[name] for name in recurring | likely) * 5 >= 4 * nonblank(text)
    earned = play or dense or form in ("quote", "above")
    accepted = recurring | {name for name in likely if earned or name.endswith(("？", "?")) or _several(name, recurring)}
    return {label: name for label, name in clean.items() if name in accepted}


def clean_name(label: str) -> str:
    """A label without indent, padding and brackets."""
    inner = BRACKET.fullmatch(label.rstrip(" \t　"))
    return (inner[1] if inner else label).strip(" \t　")


def plausible(name: str) -> bool:
    """Whether a label could be a name at all: prose before a colon mostly could not."""
    if not name or name in SETTING or name[0].isdigit() or CHOICE.fullmatch(name) or TITLE.fullmatch(name):
        return False
    if name.isascii():
        return len(name.split()) <= 5 and any(map(str.isalpha, name)) and not name.lower().startswith("http")
    return len(name) <= 16 and not PROSE_ENDINGS.search(name) and not re.match(rf"第{NUMERAL}", name)


def _several(name: str, names: set[str]) -> bool:
    """夏生·水菜萌: several known names in one label."""
    parts = re.split("[·・/／&＆、和]", name)
    return len(parts) > 1 and all(part.strip() in names for part in parts)


def _paragraphs(form: str, names: dict[str, str], text: str) -> bool:
    if form not in ("colon", "bracket"):
        return False
    alone = [match for match in LABELS[form].finditer(text) if match[1] in names and not match[2]]
    after_blank = sum(match.start() < 2 or text[match.start() - 2 : match.start()] == "\n\n" for match in alone)
    return len(alone) > 1 and after_blank * 10 >= 9 * len(alone)


def _mixed(found: Counter[tuple[str, str]], names: dict[str, str]) -> frozenset[str]:
    """Names under which a fifth or more of the lines is quoted and a fifth or more is not."""
    quoted: Counter[str] = Counter()
    bare: Counter[str] = Counter()
    for (label, first), count in found.items():
        if label in names and first and first not in "（(":
            (quoted if first in "「『" else bare)[names[label]] += count
    return frozenset(name for name in quoted if min(quoted[name], bare[name]) * 5 >= quoted[name] + bare[name])


def nonblank(text: str) -> int:
    """Lines that carry anything."""
    return sum(not line.isspace() for line in text.split("\n") if line)


def survey(texts: Iterable[str]) -> dict[str, str]:
    """Labels that at least two files of the folder use: short scene files name a person once each."""
    seen: Counter[str] = Counter()
    for text in texts:
        seen.update({clean_name(label) for form in ("colon", "tab", "bracket") for label, _ in LABELS[form].findall(text)})
    return {name: name for name, files in sorted(seen.items()) if files > 1 and plausible(name)}


# --- reading


def read(text: str, options: Options) -> Iterator[Message | Reject]:
    """Messages of a text in its own form; without any name every line is narration."""
    form = find_form(text, options)
    lines = text.split("\n")
    if form is None:
        return read_plain(lines)
    return Reading(lines, form).messages()


def read_plain(lines: Iterable[str]) -> Iterator[Message]:
    """A text that names nobody."""
    for number, line in enumerate(lines, 1):
        if line and (text := line.strip()):
            yield Message(number, None, text, "narration")


def split_colon(line: str) -> tuple[str, str]:
    """The label as written and what follows the first colon of either width."""
    full, half = line.find("："), line.find(":")
    at = half if full < 0 or 0 <= half < full else full
    return line[:at], line[at + 1 :]


def split_tab(line: str) -> tuple[str, str]:
    label, _, body = line.partition("\t")
    return label, body


def split_bracket(line: str) -> tuple[str, str]:
    found = BRACKET.match(line)
    return (found[0], line[found.end() :].lstrip("：: \t　")) if found else ("", line)


def split_quote(line: str) -> tuple[str, str]:
    at = min((at for mark in "「『“" if (at := line.find(mark)) > 0), default=0)
    return line[:at], line[at:]


def split_above(line: str) -> tuple[str, str]:
    return line, ""


SPLITS: dict[str, tuple[Split, str, str]] = {  # how to cut a line, and two marks one of which it must hold
    "colon": (split_colon, "：", ":"),
    "tab": (split_tab, "\t", "\t"),
    "bracket": (split_bracket, "】", "]"),
    "quote": (split_quote, "」", "”"),
    "above": (split_above, "", ""),
}


class Reading:
    """One file while it is read: its lines, the form, and the scene that is open."""

    def __init__(self, lines: list[str], form: Form) -> None:
        self.lines = lines
        self.form = form
        self.split, self.mark, self.other_mark = SPLITS[form.name]
        self.title, self.part = "", 1
        self.separated = any(SEPARATOR.fullmatch(line) for line in lines if line[:1] in SPECIAL)
        self.titles: Counter[str] = Counter()
        self.scene = "1" if self.separated else ""
        self.choosing = False

    def messages(self) -> Iterator[Message | Reject]:
        lines, names, split = self.lines, self.form.names, self.split
        mark, other, paragraphs = self.mark, self.other_mark, self.form.paragraphs
        index, blank, total = 0, True, len(lines)
        while index < total:
            line = lines[index]
            index += 1
            if (mark in line or other in line) and (blank or not paragraphs):
                label, body = split(line)
                if label in names:
                    body = body.strip()
                    blank = False
                    if body and body[0] not in WRAPS and "    " not in body and "　　　　" not in body:
                        yield Message(index, names[label], body, "speech", self.scene)
                    else:
                        index = yield from self.speech(index, names[label], body)
                    continue
            text = line.strip()
            blank = not text
            if text:
                if text[0] in SPECIAL or self.choosing:
                    yield from self.unlabelled(index, text)
                else:
                    yield Message(index, None, text, "narration", self.scene)

    def speech(self, index: int, name: str, body: str) -> Iterator[Message | Reject]:
        """A message that needs a closer look: glued, quoted, in brackets, or with its text below; returns where it ends."""
        number = index
        if not body:
            index, body = self.below(index)
        elif body[0] in QUOTES and QUOTES[body[0]] not in body[1:]:
            index, body = self.run_on(index, body)
        if not body:
            yield Reject(number, self.lines[number - 1].strip(), "a name without words")
        for speaker, part in self.unglue(name, body):
            yield self.said(number, speaker, part)
        return index

    def said(self, number: int, name: str, body: str) -> Message:
        kind = "thought" if wrapped(body, "（(") else "speech"
        if wrapped(body, QUOTES):
            body = body[1:-1].strip()
        elif kind == "speech" and name in self.form.mixed:
            return Message(number, None, body, "narration", self.scene)
        return Message(number, name, body, kind, self.scene)

    def below(self, index: int) -> tuple[int, str]:
        """The text under a label: to the blank line where the file has paragraphs, else one line or one quotation."""
        start = index
        while index < len(self.lines) and self.lines[index].strip():
            line = self.lines[index]
            if (self.mark and (self.mark in line or self.other_mark in line)) and not self.form.paragraphs:
                if self.split(line)[0] in self.form.names:
                    break
            index += 1
            if not self.form.paragraphs:
                return self._quotation(index, line.strip())
        return index, "\n".join(line.strip() for line in self.lines[start:index])

    def _quotation(self, index: int, body: str) -> tuple[int, str]:
        if body[0] in QUOTES and QUOTES[body[0]] not in body[1:]:
            return self.run_on(index, body)
        return index, body

    def run_on(self, index: int, body: str) -> tuple[int, str]:
        """A quotation that its line does not close goes on to the line that does; if none does, it was a slip."""
        close, parts = QUOTES[body[0]], [body]
        for end in range(index, min(index + JOINED, len(self.lines))):
            line = self.lines[end].strip()
            if not line or self.split(line)[0] in self.form.names:
                break
            parts.append(line)
            if close in line:
                return end + 1, "\n".join(parts)
        return index, body

    def unglue(self, name: str, body: str) -> Iterator[tuple[str, str]]:
        """`…    夏生：…`: a second message on the line, where a run of spaces and a known name leave no doubt."""
        start = 0
        for gap in GAP.finditer(body):
            label, _ = self.split(body[gap.end() :])
            if label and label in self.form.names:
                yield name, body[start : gap.start()].strip()
                name, start = self.form.names[label], gap.end() + len(body[gap.end() :]) - len(self.split(body[gap.end() :])[1])
        if body:
            yield name, body[start:].strip()

    def unlabelled(self, number: int, text: str) -> Iterator[Message]:
        """A scene mark (which only opens a scene), a date, a choice, a thought, a direction, or narration after all."""
        self.choosing = self.choosing and bool(ITEM.fullmatch(text))
        if SEPARATOR.fullmatch(text):
            self.part += 1
            self._open()
        elif title := TITLE.fullmatch(text):
            self.titles[text] += 1
            self.title, self.part = title["marked"] or title["numbered"], self.titles[text]
            self._open()
        elif DATE.fullmatch(text):
            yield Message(number, None, text, "direction", self.scene)
        elif self.choosing or CHOICE.fullmatch(text):
            self.choosing = True
            yield Message(number, None, text, "choice", self.scene)
        else:
            yield Message(number, None, text, _bare_kind(text), self.scene)

    def _open(self) -> None:
        number = "" if self.part == 1 else f"({self.part})"
        self.scene = f"{self.title} {number}".strip() if self.title else str(self.part)


def _bare_kind(text: str) -> str:
    if wrapped(text, "（"):
        return "thought"
    return "direction" if wrapped(text, "(") or BRACKET.fullmatch(text) else "narration"


def wrapped(text: str, opening: Iterable[str]) -> bool:
    """Whether one pair of marks encloses the whole text."""
    if len(text) < 2 or text[0] not in opening or text[-1] != WRAPS[text[0]]:
        return False
    inner, (mark, close) = text[1:-1], (text[0], text[-1])
    if close not in inner:
        return True
    if mark == close:
        return False
    depth = 0
    for character in inner:
        depth += (character == mark) - (character == close)
        if depth < 0:
            return False
    return depth == 0


def sniff(text: str) -> float:
    """Half sure of any text, surer the more of its lines carry a name."""
    form = find_form(text, Options({}, "", "", frozenset()))
    if form is None:
        return 0.1
    labelled = sum(len(LABELS[form.name].findall(text)) for _ in (0,))
    return 0.3 + 0.5 * min(1.0, labelled / max(1, nonblank(text)))


FORMAT = Format("text", (".txt", ".text", ".log", ".md"), sniff, read, survey)
