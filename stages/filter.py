"""processed/lines.jsonl -> processed/dialogues.jsonl, processed/exam.jsonl and reports/filter.json.

Keeps the two leads, pairs their turns exactly as they were spoken, and decides here, before any cleaning,
which scenes are held out. Every line is used once or left out for a named reason.
"""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations, groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from stages.cli import run
from stages.duplicates import find, near_duplicate_groups, unite
from stages.formats.marks import DATE
from stages.params import load_params
from stages.records import SPLITS, Dialogue, InputError, Line, Piece, Turn, read_lines, write_json, write_jsonl

LINES = Path("processed/lines.jsonl")
DIALOGUES = Path("processed/dialogues.jsonl")
EXAM = Path("processed/exam.jsonl")
REPORT = Path("reports/filter.json")

DAY = re.compile(rf"{DATE.pattern}|\d{{1,2}}[/.\-]\d{{1,2}}[/.\-]\d{{4}}")  # or with the year at the end
LONG_SCENE = 4  # times filter.scene_lines; the split cannot hold out a part of a scene, so a longer one is cut
UNKNOWN = "？"  # who speaks, where nobody could tell
LONG_LINE = 8  # characters; two scenes may well share a shorter line by chance
SHARED = 0.15  # of the smaller scene's long lines, by their characters; more of them in both is one passage
COMMON = 8  # scenes; what more of them have is a phrase of the script


@dataclass(frozen=True)
class FilterParams:
    """The `filter` section of params.yaml."""

    character: str
    partner: str
    scene_lines: int
    scene_narration: int
    narration_gap: int
    third_speaker: str
    min_turns: int
    near_duplicate: float
    validation_share: float
    test_share: float
    exam_train_dialogues: int
    seed: int


@dataclass(frozen=True)
class Scene:
    """Consecutive lines of one file; `number` counts from 1 within the file."""

    file: str
    number: int
    name: str
    cut_at: str
    lines: tuple[Line, ...]

    @property
    def id(self) -> str:
        return f"{self.file}#{self.number:03d}"


class Cut(NamedTuple):
    """The lines of a scene, its name in the script, and what ended it: format, date, narration or block."""

    name: str
    cut_at: str
    lines: tuple[Line, ...]


class Planned(NamedTuple):
    """A scene, the group it shares with its near duplicates, and its split."""

    scene: Scene
    group: str
    split: str


@dataclass
class Draft:
    """A turn while its lines arrive; the first `opening` pieces of its context stood before its first line."""

    speaker: str
    opening: int = 0
    lines: list[Piece] = field(default_factory=list)
    context: list[Piece] = field(default_factory=list)


@dataclass
class Tally:
    """Where each line went: into a dialogue, or left out for a reason."""

    used: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    def leave(self, reason: str, count: int) -> None:
        if count:
            self.left_out[reason] += count


# --- scenes


def split_scenes(lines: Iterable[Line], params: FilterParams) -> Iterator[Scene]:
    """Cut each file at the format's own scenes; what has none, or long ones, at dates, long narration, block ends."""
    for file, of_file in groupby(lines, key=lambda line: line.file):
        lines_ = tuple(of_file)
        cuts = own_scenes(lines_, params) if any(line.scene for line in lines_) else made_scenes(lines_, params)
        for number, cut in enumerate(cuts, 1):
            yield Scene(file, number, *cut)


def own_scenes(lines: tuple[Line, ...], params: FilterParams) -> Iterator[Cut]:
    """Scenes named by the format; a chapter, or a label with the whole script under it, is cut into made ones."""
    for name, of_scene in groupby(lines, key=lambda line: line.scene):
        scene = tuple(of_scene)
        if len(scene) <= LONG_SCENE * params.scene_lines:
            yield Cut(name, "format", scene)
        else:
            yield from (cut._replace(name=name) for cut in made_scenes(scene, params))


def made_scenes(lines: tuple[Line, ...], params: FilterParams) -> Iterator[Cut]:
    """Scenes of lines that have none: at date lines, and within a long day in blocks that end at long narration."""
    starts = [index for index, line in enumerate(lines) if is_date(line)]
    for start, end in pairwise(sorted({0, *starts, len(lines)})):
        yield from _blocks(lines[start:end], "date" if end in starts else "block", params)


def is_date(line: Line) -> bool:
    """Whether a line is a date and nobody's: 3月24日（土）, 7/21, ××/××/××."""
    return line.speaker is None and DAY.fullmatch(line.text.strip()) is not None


def _blocks(lines: tuple[Line, ...], last: str, params: FilterParams) -> Iterator[Cut]:
    start, narration = 0, 0
    for index, line in enumerate(lines):
        long_run = narration >= params.scene_narration and line.speaker is not None
        length = index - start
        if length >= params.scene_lines and (long_run or length >= 2 * params.scene_lines):
            cut = max(start, index - narration) if long_run else index
            if cut > start:
                yield Cut("", "narration" if long_run else "block", lines[start:cut])
            start = cut
        narration = narration + 1 if line.speaker is None else 0
    yield Cut("", last, lines[start:])


# --- dialogues


def pair(scene: Scene, params: FilterParams, tally: Tally) -> Iterator[tuple[Turn, ...]]:
    """The alternating turns of the two leads in one scene, in the order they were spoken."""
    leads = (params.character, params.partner)
    turns: list[Draft] = []
    context: list[Piece] = []
    for line in scene.lines:
        if ends_dialogue(line, len(context), leads, params):
            end = len(context) - carried(line, leads, params)
            yield from close(turns, context[:end], params, tally)
            turns, context = [], context[end:]
        piece = Piece(line.line, line.kind, line.text)
        if line.kind == "choice":
            tally.leave("choice", 1)
        elif line.speaker in leads:
            add_line(turns, line.speaker, piece, context)
            context = []
        elif not is_other(line, leads):
            context.append(piece)
        elif params.third_speaker == "keep_as_context":
            context.append(replace(piece, text=f"{line.speaker or UNKNOWN}：{line.text}"))
        else:
            tally.leave("third_speaker", 1)
    yield from close(turns, context, params, tally)


def ends_dialogue(line: Line, narration: int, leads: tuple[str, str], params: FilterParams) -> bool:
    """A choice, a third speaker, or a lead who speaks again after too much narration."""
    if line.kind == "choice":
        return True
    if is_other(line, leads):
        return params.third_speaker == "cut"
    return line.speaker is not None and narration > params.narration_gap


def carried(line: Line, leads: tuple[str, str], params: FilterParams) -> int:
    """How much of the narration before the line that ends a dialogue opens the next one, if a lead says that line."""
    return params.narration_gap if line.kind != "choice" and line.speaker in leads else 0


def is_other(line: Line, leads: tuple[str, str]) -> bool:
    """Whether a third person speaks: a named one, or one whom the script does not name."""
    return line.speaker not in (*leads, None) or (line.speaker is None and line.kind == "speech")


def add_line(turns: list[Draft], speaker: str, piece: Piece, context: list[Piece]) -> None:
    """Append a line: the same lead goes on, or the other one answers."""
    if not turns or turns[-1].speaker != speaker:
        turns.append(Draft(speaker, len(context)))
    turns[-1].lines.append(piece)
    turns[-1].context.extend(context)


def close(drafts: list[Draft], context: list[Piece], params: FilterParams, tally: Tally) -> Iterator[tuple[Turn, ...]]:
    """Trim a finished dialogue to prompt-and-reply pairs; what is trimmed is counted."""
    tally.leave("narration_outside_dialogues", len(context))
    drafts = open_with_narration(drafts, params, tally)
    turns = [Turn(draft.speaker, tuple(draft.lines), tuple(draft.context)) for draft in drafts]
    if turns and turns[-1].speaker == params.partner:
        tally.leave("unanswered", _size(turns[-1:]))
        turns = turns[:-1]
    if len(turns) < params.min_turns:
        tally.leave("too_few_turns", _size(turns))
        return
    tally.used += _size(turns)
    yield tuple(turns)


def open_with_narration(drafts: list[Draft], params: FilterParams, tally: Tally) -> list[Draft]:
    """If the character opens, the narration before her becomes the partner's turn; without any she has no prompt."""
    if not drafts or drafts[0].speaker == params.partner:
        return drafts
    first = drafts[0]
    before, inside = first.context[: first.opening], first.context[first.opening :]
    if not before:
        tally.leave("opens_without_prompt", _size([first]))
        return drafts[1:]
    return [Draft(params.partner, lines=before), replace(first, opening=0, context=inside), *drafts[1:]]


def _size(turns: Iterable[Turn | Draft]) -> int:
    return sum(len(turn.lines) + len(turn.context) for turn in turns)


# --- the split


def assign_splits(scenes: list[Scene], params: FilterParams) -> list[str]:
    """One split a scene: contiguous blocks of each file's scenes with both leads, placed by the seed and its name."""
    splits: list[str] = []
    for file, of_file in groupby(scenes, key=lambda scene: scene.file):
        shared = [{params.character, params.partner} <= {line.speaker for line in scene.lines} for scene in of_file]
        rng = random.Random(f"{params.seed}/{file}")
        count = sum(shared)
        validation, test = (held_out(count, share, rng) for share in (params.validation_share, params.test_share))
        blocks = iter(place_blocks(count, validation, test, rng))
        splits += [next(blocks) if both else "train" for both in shared]
    return splits


def held_out(count: int, share: float, rng: random.Random) -> int:
    """How many of a file's scenes to hold out; a file too small for one holds one out with the share's chance."""
    draw = rng.random()
    if count >= 5:
        return max(1, round(count * share)) if share else 0
    return int(count * share + draw)


def place_blocks(count: int, validation: int, test: int, rng: random.Random) -> list[str]:
    """One block of each held-out split at a seeded place, train around them."""
    validation = min(validation, count - test)
    gaps = count - validation - test
    before = rng.randint(0, gaps)
    between = rng.randint(0, gaps - before)
    blocks = [("validation", validation), ("test", test)]
    rng.shuffle(blocks)
    (first, first_size), (second, second_size) = blocks
    after = gaps - before - between
    return ["train"] * before + [first] * first_size + ["train"] * between + [second] * second_size + ["train"] * after


def unite_groups(splits: list[str], groups: list[int]) -> list[str]:
    """No group on both sides: one that straddles goes to train, so that nothing held out was ever trained on."""
    members: dict[int, set[str]] = {}
    for split, group in zip(splits, groups, strict=True):
        members.setdefault(group, set()).add(split)
    return [split if len(members[group]) == 1 else "train" for split, group in zip(splits, groups, strict=True)]


def unite_overlaps(scenes: list[Scene], groups: list[int], params: FilterParams) -> list[int]:
    """The groups, joined where scenes share long lines: made scenes of a passage told twice begin elsewhere in it."""
    long = [long_lines(scene, params) for scene in scenes]
    parent = list(groups)
    for (a, b), characters in shared_characters(long).items():
        if characters >= SHARED * min(sum(map(len, long[scene])) for scene in (a, b)):
            unite(parent, a, b)
    return [find(parent, scene) for scene in range(len(scenes))]


def long_lines(scene: Scene, params: FilterParams) -> set[str]:
    leads = (params.character, params.partner)
    return {line.text for line in scene.lines if line.speaker in leads and len(line.text) >= LONG_LINE}


def shared_characters(texts: list[set[str]]) -> Counter[tuple[int, int]]:
    """Pairs of scenes -> how many characters their common lines have."""
    scenes_with: defaultdict[str, list[int]] = defaultdict(list)
    for scene, lines in enumerate(texts):
        for line in lines:
            scenes_with[line].append(scene)
    shared: Counter[tuple[int, int]] = Counter()
    for line, scenes in scenes_with.items():
        for both in combinations(scenes, 2) if len(scenes) <= COMMON else ():
            shared[both] += len(line)
    return shared


# --- the stage

LEAST = {"scene_lines": 1, "scene_narration": 0, "narration_gap": 0, "min_turns": 1, "exam_train_dialogues": 0}


def check_params(params: FilterParams) -> None:
    """Counts must count, shares be parts of the whole: others pass here and show far away, if at all."""
    for key, least in LEAST.items():
        if getattr(params, key) < least:
            raise InputError(f"params.yaml: `filter.{key}`: expected {least} or more, got {getattr(params, key)}")
    for key in ("near_duplicate", "validation_share", "test_share"):
        if not 0 < getattr(params, key) <= 1:
            raise InputError(f"params.yaml: `filter.{key}`: expected above 0, 1 at most, got {getattr(params, key)}")
    if (held_out := params.validation_share + params.test_share) >= 1:
        raise InputError(
            "params.yaml: `filter.validation_share` and `filter.test_share`: expected less than 1 together, for train "
            f"needs the rest; got {held_out:g}"
        )
    if params.third_speaker not in ("cut", "keep_as_context"):
        raise InputError(
            f"params.yaml: `filter.third_speaker`: expected cut or keep_as_context, got {params.third_speaker!r}"
        )


def plan(lines: list[Line], params: FilterParams) -> list[Planned]:
    """Every scene with its group and its split."""
    check_params(params)
    check_leads(lines, params)
    scenes = list(split_scenes(lines, params))
    groups = near_duplicate_groups([spoken(scene, params) for scene in scenes], params.near_duplicate)
    splits = unite_groups(assign_splits(scenes, params), unite_overlaps(scenes, groups, params))
    return [Planned(*row) for row in zip(scenes, (scenes[group].id for group in groups), splits, strict=True)]


def build_dialogues(planned: list[Planned], params: FilterParams) -> tuple[list[Dialogue], Tally]:
    """All dialogues in the order of the script, and where every line went."""
    tally, dialogues = Tally(), []
    for scene, group, split in planned:
        name = scene.name or scene.id
        for number, turns in enumerate(pair(scene, params, tally), 1):
            dialogues.append(Dialogue(f"{scene.id}.{number}", scene.file, name, group, split, turns))
    check_splits(dialogues, params, tally)
    return dialogues, tally


def spoken(scene: Scene, params: FilterParams) -> str:
    """What the two leads say in a scene: the text by which routes are compared."""
    return "".join(line.text for line in scene.lines if line.speaker in (params.character, params.partner))


def check_leads(lines: list[Line], params: FilterParams) -> None:
    counts = Counter(line.speaker for line in lines if line.speaker)
    if not lines:
        raise InputError(f"{LINES}: expected lines, got none\nhint: is `extract.source` the folder of your script?")
    for key, name in (("character", params.character), ("partner", params.partner)):
        if not counts[name]:
            cast = ", ".join(f"{speaker} ({count})" for speaker, count in counts.most_common(8)) or "nobody"
            raise InputError(
                f"params.yaml: `filter.{key}` is {name!r}, who says nothing in the script; it has {cast}\n"
                "hint: write the name as it stands there, or join the names under `extract.aliases`"
            )
    if params.character == params.partner:
        raise InputError(f"params.yaml: `filter.character` and `filter.partner` are both {params.character!r}")


def check_splits(dialogues: list[Dialogue], params: FilterParams, tally: Tally) -> None:
    counts = Counter(dialogue.split for dialogue in dialogues)
    for split in SPLITS:
        if not counts[split]:
            raise InputError(
                f"filter: {params.character} and {params.partner} need dialogues in every split, got {dict(counts)}\n"
                f"hint: {'; '.join(cures(dialogues, params, tally))}"
            )


def cures(dialogues: list[Dialogue], params: FilterParams, tally: Tally) -> Iterator[str]:
    """What gives every split dialogues, the likeliest first."""
    scenes, groups = {d.scene_id for d in dialogues}, {d.group for d in dialogues}
    if len(groups) < len(SPLITS) <= len(scenes):
        yield (
            f"{len(scenes)} scenes with dialogues make {len(groups)} of near duplicates: "
            f"a `filter.near_duplicate` above {params.near_duplicate:g}"
        )
    if others := tally.left_out["third_speaker"]:
        yield f"{others} lines of others end dialogues: `filter.third_speaker: keep_as_context`"
    yield "a longer script, a smaller `filter.scene_lines`, larger shares, or another `filter.seed`"


def summarise(planned: list[Planned], dialogues: list[Dialogue], tally: Tally) -> dict[str, Any]:
    """The counts of reports/filter.json; no text of the script."""
    read = sum(len(scene.lines) for scene, _, _ in planned)
    lengths = Counter(len(dialogue.turns) for dialogue in dialogues)
    return {
        "lines": {"read": read, "used": tally.used, "left_out": dict(sorted(tally.left_out.items()))},
        "scenes": {"count": len(planned), "groups": len({group for _, group, _ in planned}), "cut_at": _cuts(planned)},
        "dialogues": {split: sum(d.split == split for d in dialogues) for split in SPLITS},
        "turns": {split: sum(len(d.turns) for d in dialogues if d.split == split) for split in SPLITS},
        "turns_per_dialogue": {str(turns): lengths[turns] for turns in sorted(lengths)},
    }


def _cuts(planned: list[Planned]) -> dict[str, dict[str, int]]:
    return {
        file: dict(sorted(Counter(row.scene.cut_at for row in of_file).items()))
        for file, of_file in groupby(planned, key=lambda row: row.scene.file)
    }


def build_exam(planned: list[Planned], dialogues: list[Dialogue], params: FilterParams) -> Iterator[dict[str, Any]]:
    """All that evaluate needs: held-out dialogues, a seeded sample of train ones, and raw train lines by speaker."""
    train = [dialogue.id for dialogue in dialogues if dialogue.split == "train"]
    sample = set(random.Random(params.seed).sample(train, min(params.exam_train_dialogues, len(train))))
    for dialogue in dialogues:
        if dialogue.split != "train" or dialogue.id in sample:
            yield {"part": "dialogue", **asdict(dialogue)}
    for scene, _, split in planned:
        for line in scene.lines if split == "train" else ():
            if line.speaker and line.kind == "speech":
                yield {"part": "line", "speaker": line.speaker, "text": line.text}


def main() -> None:
    params = load_params("filter", FilterParams)
    planned = plan(list(read_lines(LINES)), params)
    dialogues, tally = build_dialogues(planned, params)
    report = summarise(planned, dialogues, tally)
    write_jsonl(DIALOGUES, dialogues)
    write_jsonl(EXAM, build_exam(planned, dialogues, params))
    write_json(REPORT, report)
    print(
        f"filter: {tally.used} of {report['lines']['read']} lines in {len(dialogues)} dialogues {report['dialogues']}"
    )


if __name__ == "__main__":
    run(main)
