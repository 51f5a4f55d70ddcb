"""How extract fares on scripts that somebody else has counted: python -m tests.case_table [FOLDER]

FOLDER (../shared/cases) holds a folder a case: `raw/`, `expected.json` (totals) and `events.jsonl` (every message). The
pair's lines are the leads' messages; an adjacent turn is one lead right after the other: narration between is passed
over, a third speaker or the end of a scene is not. Markup that the format defines is left out of both texts.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from stages.extract import ExtractParams, Folder, Tally, extract, find_sources
from stages.params import load_params
from stages.records import InputError
from tests.test_formats_engines import MARKUP, squeezed

CASES = Path("../shared/cases")
ROOT = Path(__file__).parent.parent
HEAD = (
    "case",
    "format",
    "named",
    "speakers exact",
    "narration",
    "choices",
    "texts equal",
    "pair lines",
    "adjacent turns",
)
KINDS = {"say": "speech", "nar": "narration", "choice": "choice"}
INK = (r"\\(.)|//.*|<>|<-.*|->.*|#.*|^(?:\{[^}|:]*\}\s*)+|\[([^\]]*)\]", lambda found: found[1] or found[2] or "")
AOZORA = (r"(?<=[^\s　、。「」])《[^《》\n]+》|｜|［＃[^］\n]*］", lambda found: "")
PATTERNS = {**MARKUP, "ink": INK, "aozora": AOZORA}
Markup = tuple[str, Callable[[re.Match[str]], str]]


class Event(NamedTuple):
    """A message: where it stands, who speaks, what is said without markup."""

    file: str
    line: int
    scene: str
    who: str | None
    kind: str
    text: str


def read_case(folder: Path) -> tuple[list[Event], Tally, dict[str, str]]:
    """Our messages, their tally, and the names that the format learned for identifiers."""
    tally = Tally()
    params = replace(load_params("extract", ExtractParams, ROOT / "params.yaml"), aliases={}, narrators=[], files={})
    sources = find_sources(folder / "raw", tally)
    rows = [json.loads(line) for line in b"".join(extract(sources, params, tally)).split(b"\n") if line]
    names = {key: name for learned in Folder(sources, params).survey().values() for key, name in learned.items()}
    events = [
        Event(**{field: row[field] for field in ("file", "line", "scene", "text")}, who=row["speaker"], kind=kind(row))
        for row in rows
    ]
    return events, tally, names


def kind(row: dict[str, Any]) -> str:
    """Speech, thoughts under a name among it, narration with all that nobody says, or choice."""
    return row["kind"] if row["kind"] == "choice" else "speech" if row["speaker"] else "narration"


def told(folder: Path, names: dict[str, str], markup: Markup | None) -> tuple[list[Event], int]:
    """The events of the other count under the characters' names, an `extend` joined to its line; how many were."""
    events: list[Event] = []
    scene, extends = "", 0
    for line in filter(None, (folder / "events.jsonl").read_text("utf-8").split("\n")):
        event: dict[str, Any] = json.loads(line)
        text = (markup and re.sub(*markup, event["text"]).strip()) or event["text"]  # nothing but markup stays
        if event["kind"] == "scene":
            scene = text
        elif event["who"] == "extend":
            events[-1] = events[-1]._replace(text=events[-1].text + text)
            extends += 1
        else:
            who = names.get(event["who"], event["who"])
            events.append(Event(event["file"], event["line"], scene, who, KINDS[event["kind"]], text))
    return events, extends


def key(event: Event) -> tuple[str, str | None, str, str]:
    """What two readings of a message must share."""
    return event.file, event.who, event.kind, squeezed(event.text)


def adjacent(events: Iterable[Event], pair: set[str]) -> int:
    """One lead right after the other in one scene of one file."""
    said = [event for event in events if event.kind == "speech"]
    return sum(
        {first.who, second.who} == pair and (first.file, first.scene) == (second.file, second.scene)
        for first, second in pairwise(said)
    )


def row_of(case: Path) -> str:
    expected = json.loads((case / "expected.json").read_text("utf-8"))
    counted = case
    if not (case / "events.jsonl").is_file():
        counted = case.parent / expected["derived_from"]  # the same script, its bytes damaged
    try:
        ours, tally, names = read_case(case)
    except InputError as error:
        return f"| {case.name} | refused: {error} |"
    formats = "/".join(sorted({file["format"] for file in tally.files}))
    theirs, extends = told(counted, names, PATTERNS.get(formats))
    got, want = (Counter(map(key, events)) for events in (ours, theirs))
    cells = [case.name, formats, *totals(ours, theirs)]
    cells += [f"{(got & want).total()} of {len(theirs)}", *leads(counted, ours, theirs, names)]
    return f"| {' | '.join(cells)} | {remarks(tally, extends, expected, ours, theirs)} |"


def totals(ours: list[Event], theirs: list[Event]) -> list[str]:
    """Named lines, speakers whose count agrees, narration and choices."""
    got, want = (Counter(event.kind for event in events) for events in (ours, theirs))
    cells = [f"{got[kind]}/{want[kind]}" for kind in ("speech", "narration", "choice")]
    return [cells[0], exact_speakers(ours, theirs), *cells[1:]]


def exact_speakers(ours: list[Event], theirs: list[Event]) -> str:
    said, expected = (Counter(event.who for event in events if event.kind == "speech") for events in (ours, theirs))
    return f"{sum(said[who] == count for who, count in expected.items())} of {len(said | expected)}"


def leads(counted: Path, ours: list[Event], theirs: list[Event], names: dict[str, str]) -> list[str]:
    """The pair's lines and adjacent turns, got and as expected.json has them."""
    published = json.loads((counted / "expected.json").read_text("utf-8"))
    if not published.get("pair"):
        return ["–", "–"]
    pair = {names.get(who, who) for who in published["pair"]}
    lines, turns = sum(event.who in pair for event in ours), adjacent(ours, pair)
    assert adjacent(theirs, pair) == published["pair_adjacent_turns"], "the rule above is not theirs"
    return [f"{lines}/{published['pair_lines']}", f"{turns}/{published['pair_adjacent_turns']}"]


def remarks(tally: Tally, extends: int, expected: dict[str, Any], ours: list[Event], theirs: list[Event]) -> str:
    """What is counted otherwise by choice, what was damaged, and what agrees but for that."""
    reasons = Counter(reject["reason"] for reject in tally.rejects)
    notes = [f"{count} rejects: {reason}" for reason, count in sorted(reasons.items())]
    worded = [event for event in theirs if event.text.strip()]
    if len(worded) < len(theirs):
        notes.append(f"but for theirs without words {exact_speakers(ours, worded)} speakers exact")
    notes += [f"{extends} `extend` joined to their lines"] if extends else []
    for what in ("bad_bytes", "mojibake_repaired"):
        found = [file[what] for file in tally.files if what in file]
        notes += [f"{what}: {count if isinstance(count, int) else len(count)}" for count in found]
    notes += ["their narration is ±5 %"] if "+-5 %" in expected.get("note", "") else []
    return "; ".join(notes)


def main() -> None:
    folder = Path(sys.argv[1]) if sys.argv[1:] else CASES
    cases = sorted(path.parent for path in folder.glob("*/expected.json"))
    if not cases:
        print(f"no cases in {folder}: expected folders with raw/, expected.json and events.jsonl")
        return
    print(f"| {' | '.join((*HEAD, 'by choice'))} |\n|{'---|' * (len(HEAD) + 1)}")
    for case in cases:
        print(row_of(case), flush=True)


if __name__ == "__main__":
    main()
