"""CPU time and memory of denoise against peers, in one run; see the last column for what is asked of it.

    python -m benchmarks.denoise                       against a plain JSON round trip; a million lines
    python -m benchmarks.denoise --datasketch PYTHON   and near duplicates against datasketch 2.0
    python -m benchmarks.denoise --data-juicer FOLDER  and the whole against py-data-juicer 1.6.1, by its dj-process

PYTHON is the interpreter of a virtual environment with datasketch, FOLDER the bin/ of one with py-data-juicer and
aiohttp, which it needs and does not ask for. The text is made of the sample's lines (`dvc repro extract`): half their
characters changed, one line in ten an exact and one in ten a near copy. Each timing is of a process of its own. Ours
and the round trip count without their start, the best of three interleaved rounds, but the million lines run once. The
peers run once: datasketch counts without its start and its reading, as our near duplicates alone do; data-juicer counts
with its start.
"""

import argparse
import gc
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from math import ceil
from pathlib import Path

from stages.denoise import Ledger, denoise, run_rules
from stages.duplicates import grams, near_duplicate_groups
from stages.params import load_params
from stages.records import Dialogue, Line, Piece, Turn, read_dialogues, read_jsonl, read_lines, write_jsonl
from stages.script_rules import DenoiseParams, Spot

LINES = Path("processed/lines.jsonl")
SOME, MANY, ROUNDS = 100_000, 1_000_000, 3
THRESHOLD = 0.7
PAIR = ("夏生", "亚托莉")
JUICER = Path(__file__).with_name("denoise_data_juicer.yaml")
DATASKETCH = Path(__file__).with_name("denoise_datasketch.py")


# --- text


def made_lines(count: int, seed: int) -> Iterator[str]:
    """Lines as long as the sample's, with copies among them."""
    rng = random.Random(seed)
    said = [line.text for line in read_lines(LINES) if line.speaker]
    letters = [char for text in said for char in text if "一" <= char <= "鿿"]
    recent: list[str] = []
    for _ in range(count):
        draw = rng.random()
        if recent and draw < 0.2:
            text = rng.choice(recent)
            text = text if draw < 0.1 else changed(text, 1 / max(len(text), 12), letters, rng)
        else:
            text = changed(rng.choice(said), 0.5, letters, rng)
        recent = [*recent[-999:], text] if rng.random() < 0.1 else recent
        yield text


def changed(text: str, share: float, letters: Sequence[str], rng: random.Random) -> str:
    """A text with that share of its Chinese characters replaced."""
    return "".join(rng.choice(letters) if "一" <= char <= "鿿" and rng.random() < share else char for char in text)


def as_lines(texts: Iterable[str]) -> Iterator[Line]:
    """Records of extract."""
    for number, text in enumerate(texts, 1):
        yield Line("a.txt", f"第{number // 40}话", number, PAIR[number % 2], text, "speech")


def as_dialogues(texts: list[str]) -> Iterator[Dialogue]:
    """Records of filter: eight turns each, of one line and, every third time, two."""
    place = 0
    while place < len(texts):
        turns = []
        for index in range(8):
            some = texts[place : place + 1 + (index % 3 == 0)]
            turns.append(Turn(PAIR[index % 2], tuple(Piece(place + i + 1, "speech", t) for i, t in enumerate(some))))
            place += len(some)
        scene = f"a.txt#{place:07d}"
        yield Dialogue(f"{scene}.1", "a.txt", "", scene, "train", tuple(turns))


# --- what is measured, each in a process of its own


def round_trip(source: Path, target: Path) -> None:
    """The bound: the standard library reads and writes the file."""
    with source.open(encoding="utf-8") as lines, target.open("w", encoding="utf-8") as out:
        for line in lines:
            out.write(json.dumps(json.loads(line), ensure_ascii=False) + "\n")


def clean_lines(source: Path, target: Path, *more: str) -> None:
    """The standard strategy's rules, exact duplicates and receipts over lines."""
    rows = list(read_jsonl(source))
    dialogue, place = Dialogue("a.txt#001.1", "a.txt", "", "a.txt#001", "train", ()), Piece(0, "speech", "")
    spot_of = {speaker: Spot(dialogue, 0, place, speaker, False, ()) for speaker in PAIR}
    spots = [spot_of[row["speaker"]] for row in rows]
    params = with_rules([*of_lines(), "drop_duplicate_lines", *more])
    texts, _, _ = run_rules(spots, [row["text"] for row in rows], params, Ledger(0, 0, 0, 0, {}))
    for row, text in zip(rows, texts, strict=True):
        row["text"] = text
    write_jsonl(target, (row for row in rows if row["text"] is not None))


def clean_all(source: Path, target: Path) -> None:
    """The same and near duplicates."""
    clean_lines(source, target, "drop_near_duplicate_lines")


def whole_stage(source: Path, target: Path) -> None:
    """The stage itself over dialogues: standard, exact and near duplicates, holes, receipts."""
    names = [*parameters().strategies["standard"], "drop_duplicate_lines", "drop_near_duplicate_lines"]
    clean, receipts, _ = denoise(read_dialogues(source), with_rules(names), PAIR[1])
    write_jsonl(target, clean)
    write_jsonl(target, receipts)


def near_alone(source: Path, target: Path) -> None:
    """Near duplicates of the texts."""
    near_duplicate_groups([line.text for line in read_lines(source)], THRESHOLD)


def read_alone(source: Path, target: Path) -> None:
    """What the measurement of near duplicates reads."""
    list(read_lines(source))


@cache
def parameters() -> DenoiseParams:
    """The project's own, with the language named as detection would."""
    return replace(load_params("denoise", DenoiseParams), language="zh")


def with_rules(names: list[str]) -> DenoiseParams:
    """The same with a strategy of these rules."""
    return replace(parameters(), strategy="own", strategies={"own": names})


def of_lines() -> list[str]:
    """The standard strategy without the rules that look at scenes and dialogues."""
    whole = ("drop_duplicate_scenes", "drop_duplicate_dialogues")
    return [name for name in parameters().strategies["standard"] if name not in whole]


MEASURED: dict[str, Callable[[Path, Path], None]] = {
    function.__name__: function
    for function in (round_trip, clean_lines, clean_all, whole_stage, near_alone, read_alone)
}


def measure(name: str, source: Path) -> tuple[float, float]:
    """CPU seconds without the start of the interpreter, and the peak in MB with it."""
    command = [sys.executable, "-m", "benchmarks.denoise", "--measure", name, str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, peak = done.stdout.split()
    return float(seconds), float(peak)


def measured(name: str, source: Path) -> None:
    """The other side of `measure`."""
    gc.disable()  # as the stage does
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        MEASURED[name](source, Path(folder) / "out.jsonl")
        print(time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def best(names: Sequence[str], source: Path) -> dict[str, float]:
    """The fewest CPU seconds of each over interleaved rounds."""
    rounds = [{name: measure(name, source)[0] for name in names} for _ in range(ROUNDS)]
    return {name: min(one[name] for one in rounds) for name in names}


# --- recall


def exact_duplicates(texts: Sequence[str], threshold: float) -> set[int]:
    """Lines with an earlier one as similar: every pair that shares one of its rarest 3-grams is compared."""
    counts: dict[str, int] = {}
    for text in texts:
        for gram in grams(text):
            counts[gram] = counts.get(gram, 0) + 1
    seen: dict[str, list[int]] = {}
    sets, found = [], set()
    for index, text in enumerate(texts):
        own = sorted(grams(text), key=lambda gram: (counts[gram], gram))
        prefix = own[: len(own) - ceil(threshold * len(own)) + 1]
        sets.append(set(own))
        earlier = {other for gram in prefix for other in seen.get(gram, ())}
        if any(len(sets[o] & sets[index]) >= threshold * len(sets[o] | sets[index]) for o in earlier):
            found.add(index)
        for gram in prefix:
            seen.setdefault(gram, []).append(index)
    return found


def recall(texts: Sequence[str], threshold: float) -> tuple[float, int]:
    """The share of the lines with an earlier near duplicate that are found, and how many there are."""
    groups = near_duplicate_groups(texts, threshold)
    found = {index for index, group in enumerate(groups) if group != index}
    true = exact_duplicates(texts, threshold)
    return len(found & true) / len(true), len(true)


# --- peers


def seconds_of_datasketch(python: str, source: Path) -> float:
    """CPU seconds that datasketch's MinHash and LSH take for the same texts."""
    done = subprocess.run(
        [python, str(DATASKETCH), str(source), str(THRESHOLD)], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def seconds_of_data_juicer(folder: str, source: Path) -> float:
    """CPU seconds of its whole recipe, its start and its children included."""
    with tempfile.TemporaryDirectory() as out:
        words = Path(out) / "flagged"
        words.mkdir()
        (words / "flagged_words.json").write_text(json.dumps({"zh": ["他妈的", "傻逼", "混蛋"], "en": ["fuck"]}))
        recipe = Path(out) / "recipe.yaml"
        text = JUICER.read_text(encoding="utf-8")
        recipe.write_text(text.format(source=source, target=f"{out}/out.jsonl", words=words), encoding="utf-8")
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([f"{folder}/dj-process", "--config", str(recipe)], capture_output=True, check=True, cwd=out)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


# --- the table


def table(options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, str, str]]:
    """What was measured, the figure, what is asked."""
    texts = list(made_lines(SOME, 1))
    lines, dialogues = folder / "lines.jsonl", folder / "dialogues.jsonl"
    write_jsonl(lines, as_lines(texts))
    write_jsonl(dialogues, as_dialogues(texts))
    of_lines = best(("round_trip", "clean_lines", "clean_all", "near_alone", "read_alone"), lines)
    of_dialogues = best(("round_trip", "whole_stage"), dialogues)
    yield "JSON round trip of the lines", per_second(SOME, of_lines["round_trip"]), ""
    yield "rules and exact duplicates", per_second(SOME, of_lines["clean_lines"]), ""
    yield "  over the round trip", f"{of_lines['clean_lines'] / of_lines['round_trip']:.2f}", "at most 1.5"
    yield "and near duplicates", per_second(SOME, of_lines["clean_all"]), ""
    yield "the stage over dialogues, all of it", per_second(SOME, of_dialogues["whole_stage"]), ""
    yield (
        "  over the round trip of the dialogues",
        f"{of_dialogues['whole_stage'] / of_dialogues['round_trip']:.2f}",
        "",
    )
    found, count = recall(texts, THRESHOLD)
    near = of_lines["near_alone"] - of_lines["read_alone"]
    yield "near duplicates alone", per_second(SOME, near), ""
    yield f"  line recall, {count:,} lines", f"{found:.4f}", "at least 0.98"
    if options.datasketch:
        peer = seconds_of_datasketch(options.datasketch, lines)
        yield "datasketch", per_second(SOME, peer), ""
        yield "  times as fast", f"{peer / near:.1f}", "at least 10"
    if options.data_juicer:
        peer = seconds_of_data_juicer(options.data_juicer, lines)
        yield "data-juicer", per_second(SOME, peer), ""
        yield "  times as fast", f"{peer / of_lines['clean_all']:.0f}", "at least 50"
    write_jsonl(dialogues, as_dialogues(list(made_lines(MANY, 1))))
    seconds, peak = measure("whole_stage", dialogues)
    yield "the stage at a million lines", per_second(MANY, seconds), ""
    yield "  peak", f"{peak:,.0f} MB", "at most 1,024"
    yield "  over its time at 100,000", f"{seconds / of_dialogues['whole_stage']:.1f}", "at most 11"


def per_second(count: int, seconds: float) -> str:
    """Lines a CPU second."""
    return f"{count / seconds:,.0f} lines/s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasketch", metavar="PYTHON", help="an interpreter that has datasketch")
    parser.add_argument("--data-juicer", metavar="FOLDER", help="the bin/ of an environment that has py-data-juicer")
    parser.add_argument("--measure", nargs=2, metavar=("NAME", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        return measured(options.measure[0], Path(options.measure[1]))
    with tempfile.TemporaryDirectory() as folder:
        for what, figure, asked in table(options, Path(folder)):
            print(f"{what:<40}{figure:>18}  {asked}", flush=True)


if __name__ == "__main__":
    main()
