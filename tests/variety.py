"""How varied the sample's dialogue is, from processed/lines.jsonl: python -m tests.variety

A text made from templates shows in its skeletons (each clause as its first and last character, marks kept), in its
n-grams, and in how few ways its lines begin.
"""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from stages.records import read_jsonl

LINES = Path("processed/lines.jsonl")
LEADS = ("亚托莉", "夏生")
CLAUSE = re.compile(r"\w+")
OPENING = 4  # characters
SIZES = (4, 6, 8)  # of n-grams
WORTHWHILE = 12  # characters: a shorter line has no skeleton to speak of
SHOWN = 8


def skeleton(text: str) -> str:
    """A line with every clause cut to its first and last character: 我今天修好了灯，你看。 -> 我…灯，你看。"""
    return CLAUSE.sub(lambda found: found[0] if len(found[0]) < 3 else f"{found[0][0]}…{found[0][-1]}", text)


def skeletons(lines: Iterable[str]) -> Counter[str]:
    """The skeletons of the different lines that are long enough to have one."""
    return Counter(skeleton(text) for text in dict.fromkeys(lines) if len(text) >= WORTHWHILE)


def openings(lines: Iterable[str]) -> Counter[str]:
    """How lines begin, marks left out."""
    return Counter("".join(CLAUSE.findall(text))[:OPENING] for text in lines)


def grams(lines: Iterable[str], size: int) -> Counter[str]:
    """In how many lines each n-gram of words stands; none reaches over a mark."""
    return Counter(gram for text in lines for gram in {g for part in CLAUSE.findall(text) for g in cut(part, size)})


def cut(part: str, size: int) -> list[str]:
    return [part[i : i + size] for i in range(len(part) - size + 1)]


def spoken(speaker: str) -> list[str]:
    """What a lead says, each line once: a scene that is printed on two routes is no repetition of the author's."""
    return list(dict.fromkeys(row["text"] for row in read_jsonl(LINES) if row["speaker"] == speaker))


def show(title: str, counts: Counter[str], total: int) -> None:
    print(f"  {title}: {len(counts)} different in {total}")
    for text, count in counts.most_common(SHOWN):
        print(f"    {count:4d}  {text}")


if __name__ == "__main__":
    for lead in LEADS:
        lines = spoken(lead)
        print(f"{lead}: {len(lines)} different lines")
        show("skeletons", skeletons(lines), sum(skeletons(lines).values()))
        show(f"openings of {OPENING} characters", openings(lines), len(lines))
        for number in SIZES:
            found = grams(lines, number)
            show(f"{number}-grams", found, found.total())
