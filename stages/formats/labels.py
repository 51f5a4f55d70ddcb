"""Which labels of a plain text are names, and in which form it writes them.

A label is a name if it recurs, if the alias map or another file of the folder knows it, or if the form leaves no
doubt; any other is prose with a colon.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable
from typing import NamedTuple

from stages.formats.adornments import unadorned
from stages.formats.marks import CHOICE, NUMERAL, TITLE
from stages.formats.message import Options
from stages.formats.quotes import mixed_names

NAME = r"[^\s：:「」『』“”\"…。！!，,；;][^：:\n\t「」『』“”\"…。！!，；;]{0,39}"
DOTTED = (  # ROMEO. or, with more than a space behind it, Romeo.
    r"(?:(?:M[Rr][Ss]?|D[Rr]|S[Tt])\.[ ])?"
    r"(?:[A-Z][A-Z’' \-]{1,30}|[A-Z][^\W\d_][\w’' \-]{0,30}(?=\.(?:[ ]{2}|\t|\n)))\."
)
LABELS = {  # form -> a newline, <the label as written>, <the first character of what follows it>
    "colon": r"\n<[^：:\n\t]{1,40}>[：:][ \t　]*<.?>",
    "tab": rf"\n<{NAME}>\t[ \t　]*<.?>",
    "bracket": r"\n<[ \t　]*[【\[［][^】\]］\n]{1,40}[】\]］]>[：:]?[ \t　]*<.?>",
    "quote": rf"\n<[ \t　]*{NAME}><[「『“]>",
    "space": r"\n<[^\s：:「」『』“”\"…。！!？?，,；;、（()）\[\]【】]{1,8}>(?:　+|[ \t]{2,}|[ ](?=[（(]))[ \t　]*<.?>",
    "dot": rf"\n<{DOTTED}>[ \t]*<.?>",
    "above": r"\n\n<[ \t　]*[^\s「『“（(\[［【][^\n：:。！，…「」]{0,30}>\n[ \t　]*<[「『“\"]>",
}
WHOLE_FILE = ("space", "dot")  # forms so slight that they must label a third of the lines, and several people
CLOSED = {"quote": r"(?=[^\n]*[」』”][ \t　]*(?:\n|\Z))"}  # what must follow
APART = {form: re.compile(pattern.replace("<", "(").replace(">", ")")) for form, pattern in LABELS.items()}
WHOLE = {  # finds one string a match, so that equal ones are counted before they are taken apart
    form: re.compile(re.sub("[<>]", "", pattern) + CLOSED.get(form, "")) for form, pattern in LABELS.items()
}
START = "\n\n"  # put before a text, so that a pattern can begin with a newline, which makes it three times as fast
MARKS = {  # a text without them lacks the form
    "colon": "：:",
    "tab": "\t",
    "bracket": "】]］",
    "quote": "」』”",
    "space": "　 ",
    "dot": ".",
    "above": '「『“"',
}
BLANK = re.compile(r"\n[^\S\n]*(?=\n)")
BARE = {  # a label with nothing behind it
    "colon": re.compile(r"[:：][ \t　]*\n"),
    "bracket": re.compile(r"[】\]］][:：]?[ \t　]*\n"),
}
WRITTEN_NAME = re.compile(rf"[ \t　]*{NAME}")
BRACKET = re.compile(r"[ \t　]*[【\[［]([^】\]］\n]{1,40})[】\]］]")
MANNER = re.compile(r"(.+?)[ 　]*([（(][^（()）]{1,20}[)）])")
SETTING = frozenset(
    (
        *("时间", "地点", "场景", "背景", "音乐", "音效", "画面", "镜头", "备注", "注", "場所"),
        *("BGM", "BG", "SE", "CG", "SCENE", "Scene", "ACT", "Act", "CURTAIN", "Curtain"),
    )
)
PROSE_ENDINGS = re.compile(r"(?:[写说說道问問喊叫答想着是为]|如下|说明|原则)$")
LISTED = frozenset("-*•‣>0123456789")
MARK = re.compile(r"(?:[-*•‣>]|\d{1,4}[.、)）])[ \t　]+|\d{1,4}[.、)）]")  # - 夏生, 1. 夏生
TIME = re.compile(r"(?=\D*\d)[\d\W_年月日时時点分秒]+")
ORDINAL = re.compile(rf"第{NUMERAL}")


SHORT = 300  # lines; in a longer file names recur, and so do words before a colon


ONCE = 6  # characters of a name that a quotation alone can prove

Found = dict[tuple[str, str], int]  # label as written, first character after it -> lines


class Form(NamedTuple):
    """How a file names its speakers."""

    name: str
    names: dict[str, str]  # label as written -> name
    manners: dict[str, str]  # label as written -> the （小声） in it
    paragraphs: bool  # a label stands after a blank line, its text runs to the next one
    mixed: frozenset[str]  # names with prose under them too


def find_form(text: str, options: Options) -> Form | None:
    """The form that labels most lines, or None where none labels any."""
    text, lines = START + text, nonblank(text)
    forms = [form for name in LABELS if (form := examine(name, text, lines, options))]
    return max(forms, key=lambda form: form[0])[1] if forms else None


def examine(form: str, text: str, lines: int, options: Options) -> tuple[int, Form] | None:
    """The lines that a form labels in a text of so many after START, and what it takes for names."""
    found = {
        key: count for key, count in labelled(form, text).items() if form != "colon" or WRITTEN_NAME.fullmatch(key[0])
    }
    names = _names(found, _formed(form, found), 0 if form in WHOLE_FILE else lines, options)
    paragraphs = bool(names) and form in ("colon", "bracket", "dot") and _paragraphs(form, names, text)
    if not names or (form in WHOLE_FILE and not _everywhere(found, names, text.count("\n\n") if paragraphs else lines)):
        return None
    labels = _sum_by(found, 0)
    noted = {label: MANNER.fullmatch(clean_name(label)) for label in names}
    manners = {label: note[2] for label, note in noted.items() if note and note[1] == names[label]}
    openings = ((names[label], first, count) for (label, first), count in found.items() if first and label in names)
    return sum(labels[label] for label in names), Form(form, names, manners, paragraphs, mixed_names(openings))


def labelled(form: str, text: str) -> Found:
    """Labels and the first characters after them in a text after START."""
    found: Counter[tuple[str, str]] = Counter()
    if any(mark in text for mark in MARKS[form]):
        for whole, count in Counter(WHOLE[form].findall(text)).items():
            if match := APART[form].fullmatch(whole):
                found[match[1], match[2]] += count
    return found


def _everywhere(found: Found, names: dict[str, str], all_lines: int) -> bool:
    """Whether a third of the lines, or of the paragraphs, have labels, of two people or more."""
    lines = sum(count for (label, _), count in found.items() if label in names)
    return 3 * lines > all_lines and len(set(names.values())) > 1


def _sum_by(found: Found, part: int) -> Counter[str]:
    sums: Counter[str] = Counter()
    for key, count in found.items():
        sums[key[part]] += count
    return sums


def _formed(form: str, found: Found) -> set[str]:
    """Labels that the form itself shows to be names, so that they need not recur."""
    firsts = _sum_by(found, 1)
    if form in ("tab", "quote", "above") or (form not in WHOLE_FILE and 2 * firsts[""] > firsts.total()):
        return {label for label, _ in found}
    quoted = {label for label, first in found if first and first in "「『“"}
    if form == "bracket":
        return quoted
    mostly = 5 * (firsts["「"] + firsts["『"] + firsts["“"]) > 3 * firsts.total()
    return {label for label in quoted if len(clean_name(label)) <= ONCE} if mostly else set()


def _names(found: Found, formed: set[str], lines: int, options: Options) -> dict[str, str]:
    """The labels that are names, as written -> as a name; where they fill the lines (0: no matter), rare ones too."""
    labels = _sum_by(found, 0)
    clean = {label: clean_name(label) for label in labels}
    counts: Counter[str] = Counter()
    for label, count in labels.items():
        counts[clean[label]] += count
    sure = {name for name in counts if name in options.known or name in options.names}
    likely = {name for name in counts if name not in sure and plausible(name)}
    shown = {clean[label] for label in formed} & likely
    # a comma is prose, unless the form shows otherwise: Senators, &C:
    unproved = {name for name in likely - shown if "," not in name}
    accepted = sure | shown | {name for name in unproved if counts[name] >= options.recurrence}
    dense = lines and sum(counts[name] for name in likely | sure) * 5 >= 4 * lines
    accepted |= {name for name in unproved if dense or name.endswith(("？", "?")) or several(name, accepted)}
    noted = {label: note for label, name in clean.items() if (note := MANNER.fullmatch(name)) and note[1] in accepted}
    names = {label: name for label, name in clean.items() if name in accepted}
    return names | {label: note[1] for label, note in noted.items()}


def unwrapped(label: str) -> str:
    """A label or a title without indent, padding and brackets."""
    inner = BRACKET.fullmatch(label.rstrip(" \t　"))
    return (inner[1] if inner else label).strip(" \t　")


def clean_name(label: str) -> str:
    """A label as a name: unwrapped, without the mark of a list and a full stop."""
    name = unwrapped(label)
    if name and name[0] in LISTED:
        name = MARK.sub("", name)
    return name[:-1] if name[-1:] == "." and len(name.split(" ")[-1]) > 3 else name  # Mr. Sea., but Sea Jr.


def plausible(name: str) -> bool:
    """Whether a label could be a name at all; prose before a colon mostly could not."""
    if not name or name in SETTING or TIME.fullmatch(name) or CHOICE.fullmatch(name) or TITLE.fullmatch(name):
        return False
    if name.isascii():
        return len(name.split()) <= 6 and any(map(str.isalpha, name)) and not name.startswith("http")
    return len(name) <= 16 and not PROSE_ENDINGS.search(name) and not ORDINAL.match(name)


def several(name: str, names: Collection[str]) -> bool:
    """夏生·水菜萌: several known names in one label."""
    parts = re.split("[·・/／&＆、和]", name)
    return len(parts) > 1 and all(part.strip() in names for part in parts)


def _paragraphs(form: str, names: dict[str, str], text: str) -> bool:
    """Whether the labels that stand alone on their line, or end in a full stop, nearly always follow a blank line."""
    if form in BARE and not BARE[form].search(text):
        return False
    found = (match for match in APART[form].finditer(text) if match[1] in names)
    alone = [match.start() for match in found if form == "dot" or not match[2]]
    after_blank = sum(text[start - 1] == "\n" for start in alone)
    return len(alone) > 1 and after_blank * 10 >= 9 * len(alone)


def nonblank(text: str) -> int:
    """Lines that carry anything."""
    return text.count("\n") + 1 - len(BLANK.findall(f"\n{text}\n"))


def survey(texts: Iterable[str]) -> dict[str, str]:
    """Labels that two short files of the folder share: files of one scene name a person once each."""
    files: Counter[str] = Counter()
    for text in texts:
        if text.count("\n") < SHORT:
            files.update(
                {
                    clean_name(label)
                    for form in ("colon", "tab", "bracket")
                    for label, _ in labelled(form, START + unadorned(text))
                }
            )
    return {name: name for name, count in sorted(files.items()) if count > 1 and plausible(name)}
