"""MB/s and peak memory of extract per format, against a bare loop over the same file in the same run.

    python -m benchmarks.extract              1, 10 and 100 MB of `text`, 10 MB of the others
    python -m benchmarks.extract text 1       one format, one size

The bare loop iterates lines, matches one compiled pattern and dumps the same record with orjson: the least that any
extraction does. Each measurement is a process of its own; the best of three counts, peaks are without the interpreter.
"""

import gc
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path

import orjson

from stages.extract import ExtractParams, Source, Tally, extract, report
from stages.params import load_params
from stages.records import read_lines

PLAN = [("text", 1), ("text", 10), ("text", 100), ("renpy", 1), ("renpy", 10), ("renpy", 100)]
PLAN += [(name, 10) for name in ("json", "csv", "prose", "webgal", "subtitles")]
RUNS = 3
LINES = Path("processed/lines.jsonl")

Write = Callable[[str | None, str], str]


def renpy(name: str | None, text: str) -> str:
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'    "{name}" "{quoted}"\n' if name else f'    "{quoted}"\n'


def subtitles(name: str | None, text: str) -> str:
    return f"Dialogue: 0,0:00:01.00,0:00:02.00,Default,{name or ''},0,0,0,,{text}\n"


HEADS = {"renpy": "label start:\n", "csv": "name,text\n", "subtitles": "[Script Info]\n\n[Events]\n", "json": "[\n"}
HEADS["subtitles"] += "Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
WRITERS: dict[str, tuple[str, Write, re.Pattern[str]]] = {  # suffix, a line of the format, the bare loop's pattern
    "text": (".txt", lambda n, t: f"{n}：{t}\n" if n else f"{t}\n", re.compile(r"([^：:\n]{1,20})[：:](.*)")),
    "renpy": (".rpy", renpy, re.compile(r'\s*"([^"]*)" "(.*)"')),
    "json": (
        ".json",
        lambda n, t: orjson.dumps({"name": n, "message": t} if n else {"message": t}).decode() + ",\n",
        re.compile(r'{"name":"([^"]*)","message":"(.*)"}'),
    ),
    "csv": (".csv", lambda n, t: f'{n or ""},"{t.replace(chr(34), "“")}"\n', re.compile(r'([^,]*),"(.*)"')),
    "prose": (".txt", lambda n, t: f"{n}说：“{t}”\n" if n else f"{t}\n", re.compile(r"(.{1,20})说：“(.*)”")),
    "webgal": (".txt", lambda n, t: f"{n or ''}:{t};\n", re.compile(r"([^:]*):(.*);")),
    "subtitles": (".ass", subtitles, re.compile(r"Dialogue: (?:[^,]*,){4}([^,]*),(?:[^,]*,){4}(.*)")),
}


def material(name: str, megabytes: int, lines: list[tuple[str | None, str]]) -> Iterator[str]:
    """Lines of the sample, shuffled, until there are enough bytes."""
    write, wanted = WRITERS[name][1], megabytes * 1_000_000
    shuffled = random.Random(1).sample(lines, len(lines))
    yield HEADS.get(name, "")
    for speaker, text in cycle(shuffled):
        line = write(speaker, text)
        wanted -= len(line.encode())
        if wanted < 0:
            break
        yield line
    if name == "json":
        yield '{"message":"…"}]\n'


def bare(pattern: re.Pattern[str], path: Path, out: Path) -> None:
    match = pattern.match
    with path.open(encoding="utf-8") as lines, out.open("wb") as rows:
        for number, line in enumerate(lines, 1):
            found = match(line)
            speaker, text = found.groups() if found else (None, line.rstrip("\n"))
            row = {"file": path.name, "scene": "", "line": number, "speaker": speaker, "text": text, "kind": "speech"}
            rows.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))


def ours(params: ExtractParams, path: Path, out: Path) -> None:
    gc.disable()  # as extract's own main does
    tally = Tally()
    with out.open("wb") as rows:
        rows.writelines(extract([Source(path.name, path.read_bytes)], params, tally))
    report(tally)
    assert not tally.rejects, tally.rejects[:3]


def measure(what: str, name: str, path: Path) -> None:
    """Print seconds of processor time, which other programs disturb least, and megabytes at the peak."""
    params = replace(load_params("extract", ExtractParams), format=name)
    work = {"bare": partial(bare, WRITERS[name][2]), "ours": partial(ours, params)}[what]
    begun, before = time.process_time(), memory("VmRSS")
    work(path, path.with_suffix(".out"))
    print(time.process_time() - begun, memory("VmHWM") - before)


def memory(field: str) -> float:
    """Megabytes of this process: VmRSS now, VmHWM at the highest (rusage would inherit the parent's)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) / 1024


def best(what: str, name: str, path: Path) -> tuple[float, float]:
    command = [sys.executable, "-m", "benchmarks.extract", f"--{what}", name, str(path)]
    runs = [subprocess.run(command, check=True, capture_output=True, text=True).stdout.split() for _ in range(RUNS)]
    return min(float(seconds) for seconds, _ in runs), min(float(peak) for _, peak in runs)


def compare(name: str, megabytes: int, lines: list[tuple[str | None, str]], folder: Path) -> str:
    path = folder / f"script{WRITERS[name][0]}"
    path.write_text("".join(material(name, megabytes, lines)), encoding="utf-8")
    (floor, _), (seconds, peak) = best("bare", name, path), best("ours", name, path)
    times = seconds / floor
    return f"| {name} | {megabytes} | {megabytes / floor:.1f} | {megabytes / seconds:.1f} | {times:.2f} | {peak:.0f} |"


def main() -> None:
    if sys.argv[1:] and sys.argv[1].startswith("--"):
        return measure(sys.argv[1][2:], sys.argv[2], Path(sys.argv[3]))
    lines = [
        (line.speaker, line.text.replace("\n", ""))
        for line in read_lines(LINES)
        if line.kind in ("speech", "narration")
    ]
    lines = [(name, text) for name, text in lines if name or not set(text) & set("：:“”")]
    plan = [(sys.argv[1], int(sys.argv[2]))] if sys.argv[1:] else PLAN
    print("| format | MB | bare MB/s | extract MB/s | times the bare loop | peak MB |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, megabytes in plan:
            print(compare(name, megabytes, lines, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
