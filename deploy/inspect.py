"""First look at one's own text: python -m deploy.inspect raw/mygame

Runs extract and filter in memory, changes no file, and prints what was taken, who speaks, what a training run would
see, and the lines to paste into params.yaml.
"""

import argparse
import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
from ruamel.yaml import YAML

from stages.cli import run
from stages.extract import ExtractParams, Tally, extract, find_sources, report, unattributed
from stages.filter import FilterParams, build_dialogues, plan, summarise
from stages.formats.labels import several
from stages.params import load_params, read_section
from stages.persona import VARIABLE
from stages.records import Dialogue, InputError, Line

UNNAMED = re.compile(r"^[?？]+$|声音|之声|少女|少年|女孩|男孩|[?？]$|^the |voice|の声|謎", re.IGNORECASE)
SHOWN = 12
FEW_STEPS = 50  # of the optimiser; fewer teach a base little of a voice
SHORTEST_SCENE = 10  # lines; the least `filter.scene_lines` that is tried


def script_of(folder: Path) -> Path:
    """Where a work's script lies: its `script` folder, if it has one beside persona, probes and lore."""
    return folder / "script" if (folder / "script").is_dir() else folder


def settings_for(source: Path, params: ExtractParams) -> ExtractParams:
    """The settings for a folder; names and files of another work, as params.yaml still has them, do not count."""
    if Path(params.source).resolve() == source.resolve():
        return params
    return replace(params, source=str(source), aliases={}, files={})


def read(source: Path, params: ExtractParams) -> tuple[list[Line], Tally]:
    """The lines of a folder, and what became of each file's."""
    tally = Tally()
    batches = extract(find_sources(source, tally), params, tally)
    return [Line(**orjson.loads(row)) for batch in batches for row in batch.splitlines()], tally


def suggest_leads(lines: list[Line], named: Collection[str] = ()) -> tuple[str, str]:
    """The character and the partner: the pair, with those named, that answer each other most.

    The one with thoughts tells the story and is the partner; where neither or both think, the one who speaks less.
    """
    answers = Counter(
        tuple(sorted((a.speaker, b.speaker)))
        for a, b in pairwise(lines)
        if a.speaker and b.speaker and a.speaker != b.speaker and (a.file, a.scene) == (b.file, b.scene)
    )
    answers = Counter({pair: count for pair, count in answers.items() if set(named) <= set(pair)})
    if not answers:
        raise InputError(
            f"expected two named speakers who answer each other, found none{' with ' if named else ''}"
            f"{' and '.join(named)}\n"
            "hint: is the format right (`extract.format`)? A text without speaker names cannot be used"
        )
    thoughts = Counter(line.speaker for line in lines if line.kind == "thought")
    spoken = Counter(line.speaker for line in lines)
    ranked = sorted(answers.most_common(1)[0][0], key=lambda name: (thoughts[name], -spoken[name], name))
    return ranked[0], ranked[1]


def choose_leads(lines: list[Line], character: str | None, partner: str | None) -> tuple[str, str]:
    """Those named on the command line, who must speak, and the suggested one for who is not named."""
    spoken = Counter(line.speaker for line in lines if line.speaker)
    for option, name in (("--character", character), ("--partner", partner)):
        if name and name not in spoken:
            cast = ", ".join(f"{speaker} ({count})" for speaker, count in spoken.most_common(SHOWN)) or "nobody"
            raise InputError(f"{option}: expected a speaker of the script, got {name}\nhint: most often speak {cast}")
    if character and character == partner:
        raise InputError(f"expected two different leads, got {character} for both\nhint: name one, or two")
    if character and partner:
        return character, partner
    suggested = suggest_leads(lines, [name for name in (character, partner) if name])
    other = next(name for name in suggested if name not in (character, partner))
    return (character or other, partner or other) if character or partner else suggested


def suggest_aliases(found: dict[str, Any], character: str, others: Collection[str]) -> dict[str, list[str]]:
    """Typos to the name they are near; unnamed phases to the character, for a person to confirm; `others` stay.

    Several who speak together, 夏生&水菜萌, are nobody's alias.
    """
    cast = {row["name"] for row in found["speakers"]}
    near = {row["name"]: row["near"][0] for row in found["suspicious"] if not several(row["name"], cast)}
    unnamed = [row["name"] for row in found["speakers"] if UNNAMED.search(row["name"])]
    nearest = near | {name: character for name in unnamed if name not in near}
    nearest = {name: other for name, other in nearest.items() if name not in (character, *others)}
    aliases: dict[str, list[str]] = {}
    for name in nearest:
        aliases.setdefault(last(name, nearest), []).append(name)
    return aliases


def last(name: str, nearest: dict[str, str]) -> str:
    """Where a chain of nearest names ends: a name that is itself an alias cannot have aliases."""
    while name in nearest:
        name = nearest[name]
    return name


def count_variables(lines: list[Line]) -> Counter[str]:
    """What the game would fill in, {player_name}, and how many lines hold it."""
    return Counter(variable for line in lines for variable in sorted(set(VARIABLE.findall(line.text))))


def suggest_values(
    variables: Collection[str], known: dict[str, str], lines: list[Line], leads: tuple[str, str]
) -> dict[str, list[str]]:
    """Variables as aliases of the name that they hold: what the scripts set them to, else the lead who is called so."""
    cast = {line.speaker for line in lines}
    aliases: dict[str, list[str]] = {}
    for variable in variables:
        value, lead = known.get(variable), called_by(variable, lines, leads)
        if name := value if value and (lead or value in cast) else lead:
            aliases.setdefault(name, []).append(variable)
    return aliases


def called_by(variable: str, lines: list[Line], leads: tuple[str, str]) -> str | None:
    """The lead whom the other one, and only the other one, calls so: between marks, {player_name}，…"""
    call = re.compile(rf"(?:^|[^\w\s]\s?){re.escape(variable)}(?:[^\w\s]|$)")
    callers = {line.speaker for line in lines if line.speaker in leads and call.search(line.text)}
    return next(lead for lead in leads if lead not in callers) if len(callers) == 1 else None


def learned(dialogues: list[Dialogue], character: str) -> tuple[int, int, int]:
    """Dialogues, turns and characters of text that training would learn from."""
    train = [dialogue for dialogue in dialogues if dialogue.split == "train"]
    turns = [turn for dialogue in train for turn in dialogue.turns if turn.speaker == character]
    return len(train), len(turns), sum(len(piece.text) for turn in turns for piece in turn.lines)


def show_files(tally: Tally, found: dict[str, Any]) -> None:
    print("Files")
    for row in tally.files:
        print(
            f"  {row['file']}: {row['format']} ({row['format_why']}), {row['encoding']} ({row['encoding_why']}), "
            f"{row['messages']} messages, {row['named']} named, {row['rejects']} not understood"
        )
    for row in found["skipped"]:
        print(f"  {row['file']}: left alone ({row['reason']})")
    for row in tally.rejects[:SHOWN]:
        print(f"  not understood: {row['file']}:{row['line']}: {row['reason']}")


def show_cast(found: dict[str, Any]) -> None:
    print("\nCast, by lines")
    for row in found["speakers"][:SHOWN]:
        print(f"  {row['lines']:6} {row['name']}")
    if len(found["speakers"]) > SHOWN:
        print(f"         and {len(found['speakers']) - SHOWN} more")
    if count := found["totals"].get("unlisted_names"):
        print(f"         and {count} long names of few lines: texts, perhaps, in the column of names")
    if note := unattributed(found, share=0):
        print(f"  {note}")


def show_variables(variables: Counter[str], known: dict[str, str]) -> None:
    if variables:
        print("\nVariables in the text, by lines: she would say them as they stand (an alias in braces fills one in)")
    for variable, count in variables.most_common(SHOWN):
        print(f"  {count:6} {variable}" + (f" = {known[variable]}" if variable in known else ""))


def show_training(lines: list[Line], params: FilterParams) -> None:
    planned = plan(lines, params)
    dialogues, tally = build_dialogues(planned, params)
    counts = summarise(planned, dialogues, tally)
    count, turns, characters = learned(dialogues, params.character)
    print(f"\nDialogues of {params.character} and {params.partner}")
    print(f"  {counts['scenes']['count']} scenes, {counts['dialogues']} dialogues, {counts['turns']} turns")
    print(
        f"  lines used: {counts['lines']['used']} of {counts['lines']['read']}; left out: {counts['lines']['left_out']}"
    )
    print(f"  turns per dialogue: {counts['turns_per_dialogue']}")
    print(f"  a training run learns {turns} turns ({characters} characters) in {count} dialogues, before cleaning")
    train = read_section("train")
    steps = steps_of(count, train)
    print(f"  about {steps} optimiser steps of {train['batch_size']} dialogues on {train['base_model']}")
    if steps < FEW_STEPS:
        print(f"  so few teach little; for {FEW_STEPS}: {', or '.join(more_steps(count, train))}")
        print("".join(f"  {hint}\n" for hint in more_dialogues(lines, params, count)), end="")
    print("  in minutes and gigabytes, after `dvc repro format`: python -m stages.train --plan")


def steps_of(dialogues: int, train: dict[str, Any]) -> int:
    """Optimiser steps of a training."""
    return train["max_steps"] or train["epochs"] * -(-dialogues // train["batch_size"])


def more_steps(dialogues: int, train: dict[str, Any]) -> Iterator[str]:
    """The largest batch, the fewest epochs and the steps that are enough, for so many dialogues."""
    sizes = range(train["batch_size"] - 1, 0, -1)
    enough = (size for size in sizes if train["epochs"] * -(-dialogues // size) >= FEW_STEPS)
    if size := next(enough, None) if not train["max_steps"] else None:
        yield f"`train.batch_size: {size}`"
    if dialogues and not train["max_steps"]:
        yield f"`train.epochs: {-(-FEW_STEPS // -(-dialogues // train['batch_size']))}`"
    yield f"`train.max_steps: {FEW_STEPS}`"


def more_dialogues(lines: list[Line], params: FilterParams, dialogues: int) -> Iterator[str]:
    """The first shorter made scene that cuts the text into half as many dialogues more to learn from."""
    size = params.scene_lines // 2
    while size >= SHORTEST_SCENE:
        shorter = replace(params, scene_lines=size)
        count = learned(build_dialogues(plan(lines, shorter), shorter)[0], params.character)[0]
        if 2 * count >= 3 * dialogues:
            yield f"or shorter scenes: `filter.scene_lines: {size}` makes {count} dialogues of these {dialogues}"
            return
        size //= 2


def show_params(source: Path, params: FilterParams, known: dict[str, list], aliases: dict[str, list[str]]) -> None:
    """What to paste, and how to look again with the leads the other way round: aliases are suggested for her."""
    work = source.parent if source.name == "script" else source
    names = dict.fromkeys((params.character, params.partner, *known, *aliases))
    merged = {name: [*known.get(name, []), *aliases.get(name, [])] for name in names}
    lines = {
        "extract": {"source": str(source), "aliases": merged},
        "filter": {"character": params.character, "partner": params.partner},
        "format": {"work": str(work)},
    }
    print("\nTo put into params.yaml, in place of the lines there (aliases: keep the ones that are the same person)")
    yaml = YAML()
    yaml.width = sys.maxsize  # a long path stays on the line of its key
    yaml.dump(lines, sys.stdout)
    leads = f"CHARACTER={shlex.quote(params.partner)} PARTNER={shlex.quote(params.character)}"
    print(f"\nIs {params.partner} the one who is to speak? Then look again, for other aliases:")
    print(f"  make inspect SOURCE={shlex.quote(str(source))} {leads}")


def main() -> None:
    try:
        look()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads, such as `head`, has seen enough; Python would flush once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def look() -> None:
    """The whole look at what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="the work's folder, or that of its script files")
    parser.add_argument("--character", help="the lead who is to speak (default: suggested)")
    parser.add_argument("--partner", help="the lead who speaks to her (default: suggested)")
    options = parser.parse_args()
    source = script_of(options.source)
    settings = settings_for(source, load_params("extract", ExtractParams))
    lines, tally = read(source, settings)
    found = report(tally)
    show_files(tally, found)
    show_cast(found)
    variables = count_variables(lines)
    show_variables(variables, tally.variables)
    character, partner = choose_leads(lines, options.character, options.partner)
    params = replace(load_params("filter", FilterParams), character=character, partner=partner)
    try:
        show_training(lines, params)
    except InputError as error:
        print(f"\nNo training run is possible yet: {error}")
    aliases = suggest_aliases(found, character, (partner, *settings.aliases))
    for name, held in suggest_values(variables, tally.variables, lines, (character, partner)).items():
        aliases.setdefault(name, []).extend(held)
    show_params(source, params, settings.aliases, aliases)


if __name__ == "__main__":
    run(main)
