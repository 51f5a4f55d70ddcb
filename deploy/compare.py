"""Experiments over cleaning strategies (or any other parameter) in; one table that says which is better, if any is.

    python -m deploy.compare                                        every strategy, its control, three seeds
    python -m deploy.compare --over train.rank --values 4,16,64     any other parameter

Each run is a DVC experiment of its own (`dvc exp show`, `dvc exp apply NAME`). A finished one is not run again, a
failed one does not stop the rest. Only the named parameter and the seed vary: same exam, base, recipe and optimiser
steps, and for a strategy a control that drops as many lines at random. The choice is made on the validation split's
core turns, those that no rule on form, filler or language would touch; the test split is read once, for the one
chosen. The statistics are in deploy/paired.py, the running of experiments in deploy/experiments.py.
"""

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from deploy.compare_page import write_page
from deploy.experiments import Plan, Run, Setting, inputs, refuse_untracked, run_all, say, with_overrides, yaml
from deploy.paired import Difference, adjusted, difference, per_character, verdict
from stages.cli import run
from stages.failures import FAILURES
from stages.metrics import mean
from stages.params import PARAMS, look_up, read_section
from stages.records import InputError

PAGE = Path("reports/compare.html")
FILTER_REPORT = Path("reports/filter.json")
STRATEGY, CONTROL = "denoise.strategy", "denoise.control"
STEPS = "train.max_steps"
OWN_STEPS = ("train.epochs", STEPS)  # parameters that give each of their values its own count of steps
DRAWS, DRAW_SEED = 10_000, 20240401
MAY_DIFFER = {"adapter_sha256", "base_model", "revision"}  # the last two are parameters, and compared as such


class Row(NamedTuple):
    """A setting's line of the table; differences are Holm-adjusted together."""

    name: str
    lines: float
    characters: int
    core: float
    every: float
    against_baseline: Difference | None
    against_control: Difference | None
    figures: dict[str, float | None]
    verdict: str


class Result(NamedTuple):
    """The table, the setting chosen on validation, and its test figures against baseline and control."""

    rows: list[Row]
    chosen: str
    test: Row
    baseline: str


# --- what is compared


def settings_of_strategies(names: Sequence[str]) -> list[Setting]:
    """`none` first, then every strategy with a control that drops as much at random; dropping nothing has none."""
    found = [Setting("none", {STRATEGY: "none", CONTROL: False})]
    for name in names:
        if name != "none":
            control = f"{name} (control)"
            found.append(Setting(name, {STRATEGY: name, CONTROL: False}, control))
            found.append(Setting(control, {STRATEGY: name, CONTROL: True}))
    return found


def settings_of_values(parameter: str, values: Sequence[str]) -> list[Setting]:
    """One setting a value; the value that params.yaml has is the baseline, else the first."""
    refuse_unknown([{parameter: None}])
    section, _, rest = parameter.partition(".")
    now = look_up(read_section(section), rest)
    ordered = sorted(values, key=lambda value: value_of(value) != now)
    return [Setting(f"{parameter}={value}", {parameter: value_of(value)}) for value in ordered]


def make_plan(options: argparse.Namespace) -> Plan:
    """The settings, the seeds, and equal optimiser steps without early stopping."""
    if options.over and options.over != STRATEGY:
        settings = settings_of_values(options.over, listed(options.values, "--values"))
    else:
        names = options.values or options.strategies
        settings = settings_of_strategies(listed(names, "--strategies") if names else strategies())
    if len(settings) < 2:
        raise InputError("compare: expected at least two settings\nhint: --strategies light,standard")
    shared = {"train.patience": 0, **dict(parse_override(text) for text in options.set)}
    varied = frozenset(key for setting in settings for key in setting.overrides)
    refuse_unknown({**setting.overrides, **shared} for setting in settings)
    refuse_two_counts(options, shared)
    if options.over not in OWN_STEPS:
        shared[STEPS] = options.steps or shared.get(STEPS) or steps_without_cleaning(shared)
    return Plan(settings, list(range(1, options.seeds + 1)), shared, varied | {"train.seed", "denoise.seed"})


def refuse_two_counts(options: argparse.Namespace, shared: dict[str, Any]) -> None:
    """Raise InputError where the command line says twice how many optimiser steps a run takes."""
    over = {f"--over {options.over}": True} if options.over in OWN_STEPS else {}
    counts = {"--steps": options.steps, f"--set {STEPS}": shared.get(STEPS), **over}
    given = [name for name, value in counts.items() if value]
    if len(given) > 1:
        raise InputError(f"compare: expected one count of optimiser steps, got {' and '.join(given)}\nhint: name one")


def refuse_unknown(overrides: Iterable[dict[str, Any]]) -> None:
    """Raise InputError for a parameter or a strategy that params.yaml does not have, before anything is trained."""
    params, known = yaml.load(PARAMS.read_text(encoding="utf-8")), strategies()
    for key, value in (item for one in overrides for item in one.items()):
        place, path = params, []
        for part in key.split("."):
            if not isinstance(place, dict) or part not in place:
                raise InputError(unknown(f"`{'.'.join([*path, part])}`", ".".join(path), place))
            place, path = place[part], [*path, part]
        if key == STRATEGY and value not in known:
            raise InputError(unknown(f"the strategy {value!r}", "denoise.strategies", dict.fromkeys(known)))


def unknown(what: str, place: str, there: Any) -> str:
    """That params.yaml lacks something, and what it has in that place."""
    names = ", ".join(map(str, there)) if isinstance(there, dict) else f"the value {there!r} and nothing below it"
    where = f"{PARAMS}, `{place}`" if place else f"{PARAMS}"
    return f"compare: expected names that {PARAMS} has, got {what}\nhint: {where} has {names}"


def strategies() -> list[str]:
    """All that params.yaml names."""
    return list(read_section("denoise")["strategies"])


def steps_without_cleaning(shared: dict[str, Any]) -> int:
    """The optimiser steps that the uncleaned text would take with what all runs share: as many for every strategy."""
    if not FILTER_REPORT.is_file():
        raise InputError(f"expected {FILTER_REPORT}, found no such file\nhint: `dvc repro filter`, or name --steps")
    train = with_overrides({"train": read_section("train")}, shared)["train"]
    epochs, size = (count_of(train, key) for key in ("epochs", "batch_size"))
    dialogues = json.loads(FILTER_REPORT.read_bytes())["dialogues"]["train"]
    return epochs * -(-dialogues // size)


def count_of(train: dict[str, Any], key: str) -> int:
    """A whole number above zero from the section of train."""
    if not isinstance(train[key], int) or train[key] < 1:
        raise InputError(f"compare: expected a whole number above 0 for train.{key}, got {train[key]!r}")
    return train[key]


def listed(text: str | None, option: str) -> list[str]:
    """The values of a,b,c."""
    values = [value.strip() for value in (text or "").split(",") if value.strip()]
    if not values:
        raise InputError(f"compare: expected {option} a,b,c, got {text!r}")
    return values


def parse_override(text: str) -> tuple[str, Any]:
    """key and value of section.key=value."""
    key, equals, value = text.partition("=")
    if not equals or "." not in key:
        raise InputError(f"compare: expected --set section.key=value, got {text!r}")
    return key, value_of(value)


def value_of(text: str) -> Any:
    """A value as YAML 1.2 reads it."""
    return yaml.load(text)


# --- is it fair?


def unfairness(runs: Sequence[Run], plan: Plan) -> Iterator[str]:
    """Everything in which the runs differ beside what is compared, in words."""
    first = runs[0]
    for one in runs:
        name = f"{one.setting}, seed {one.seed}"
        for key in sorted(differing(one.metrics["provenance"], first.metrics["provenance"]) - MAY_DIFFER):
            yield f"{name}: another {key} than {first.setting}, seed {first.seed}"
        if one.steps != first.steps and STEPS in plan.shared:
            yield f"{name}: {one.steps} optimiser steps, not {first.steps}"
        if [row[:4] for row in one.metrics["scenes"]] != [row[:4] for row in first.metrics["scenes"]]:
            yield f"{name}: other turns are scored, or other ones are core"
        for key in sorted(differing(one.params, first.params) - plan.varied):
            yield f"{name}: {key} differs"
        if one.leaks:
            yield f"{name}: {one.leaks} training dialogues are near duplicates of held-out ones"


def differing(one: Any, other: Any, path: str = "") -> set[str]:
    """The dotted keys in which two parameter files differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = {*one, *other}
        return {k for key in keys for k in differing(one.get(key), other.get(key), f"{path}.{key}".lstrip("."))}
    return set() if one == other else {path}


def refuse_unfair(runs: Sequence[Run], plan: Plan) -> None:
    """Raise InputError unless only what is compared varies."""
    found = list(unfairness(runs, plan))
    if found:
        raise InputError(
            "compare: these runs cannot be compared fairly:\n" + "\n".join(f"  {line}" for line in found) + "\n"
            "hint: run all on one machine and one text; `dvc exp remove NAME` what was made otherwise"
        )


# --- the table


def bits_of(runs: Sequence[Run], setting: str, split: str, core: bool) -> tuple[np.ndarray, np.ndarray]:
    """Her bits under the adapter [seeds, scenes] and her characters [scenes], of a split's core turns or of all."""
    own = sorted((one for one in runs if one.setting == setting), key=lambda one: one.seed)
    tables = [sums_by_scene(one.metrics["scenes"], split, core) for one in own]
    scenes = list(tables[0])
    bits = np.array([[table[scene][1] for scene in scenes] for table in tables])
    return bits, np.array([tables[0][scene][0] for scene in scenes], dtype=float)


def sums_by_scene(rows: Iterable[Sequence[Any]], split: str, core: bool) -> dict[str, tuple[float, float]]:
    """Characters and adapter bits a scene, from [scene, split, core, characters, base bits, adapter bits]."""
    sums: dict[str, tuple[float, float]] = {}
    for scene, its_split, is_core, characters, _, bits in rows:
        if its_split == split and (is_core or not core):
            before = sums.get(scene, (0, 0.0))
            sums[scene] = before[0] + characters, before[1] + bits
    return sums


def compare(runs: Sequence[Run], plan: Plan) -> Result:
    """The table on validation, the setting chosen there, and what the test split says of that one alone."""
    complete = [one for one in plan.settings if len({r.seed for r in runs if r.setting == one.name}) == len(plan.seeds)]
    baseline = plan.settings[0].name
    if len(complete) < 2 or complete[0].name != baseline:
        raise InputError("compare: the baseline and one more setting must have finished\nhint: run it again")
    rows = table(runs, complete, baseline, "validation")
    controls = {one.control for one in plan.settings}
    chosen = min((row for row in rows if row.name not in controls), key=lambda row: row.core).name
    named = [one for one in complete if one.name in (baseline, chosen)]
    wanted = {one.control for one in named} | {one.name for one in named}
    test = next(
        row
        for row in table(runs, [one for one in complete if one.name in wanted], baseline, "test")
        if row.name == chosen
    )
    return Result(rows, chosen, test, baseline)


def table(runs: Sequence[Run], settings: Sequence[Setting], baseline: str, split: str) -> list[Row]:
    """A row a setting; p values are adjusted over all differences of the table."""
    names = {one.name for one in settings}
    pairs = [(one.name, baseline) for one in settings if one.name != baseline]
    pairs += [(one.name, one.control) for one in settings if one.control in names]
    gaps = dict(zip(pairs, adjusted([gap(runs, *pair, split, len(pairs)) for pair in pairs]), strict=True))
    return [
        make_row(runs, one, gaps.get((one.name, baseline)), gaps.get((one.name, one.control)), split)
        for one in settings
    ]


def gap(runs: Sequence[Run], one: str, other: str, split: str, comparisons: int) -> Difference:
    """One setting minus another on the core turns of a split, as one of so many comparisons."""
    (bits, characters), (others, _) = (bits_of(runs, name, split, core=True) for name in (one, other))
    if not characters.sum():
        raise InputError(f"compare: no core turns in the {split} split\nhint: larger `filter.{split}_share`")
    return difference(bits, others, characters, DRAWS, DRAW_SEED, comparisons)


def make_row(
    runs: Sequence[Run], setting: Setting, baseline: Difference | None, control: Difference | None, split: str
) -> Row:
    """What a setting kept, how well it fits, and the counter-metrics beside it, means over seeds."""
    own = [one for one in runs if one.setting == setting.name]
    return Row(
        name=setting.name,
        lines=mean(one.denoised["lines_out"] / one.denoised["lines_in"] for one in own),
        characters=round(mean(one.denoised["learned_characters_out"] for one in own)),
        core=per_character(*bits_of(runs, setting.name, split, core=True)),
        every=per_character(*bits_of(runs, setting.name, split, core=False)),
        against_baseline=baseline,
        against_control=control,
        figures=figures(own),
        verdict=verdict(baseline, control, setting.control is not None) if baseline else "baseline",
    )


def figures(runs: Sequence[Run]) -> dict[str, float | None]:
    """Voice, ranking and the failure rates of the replies: they do not choose, they warn."""
    paths = {"voice": "adapter.voice", "hits@1": "adapter.rank_hits_1"}
    paths |= {rate: f"scorecard.{rate}.chat.adapter.rate" for rate in FAILURES}
    found = {name: [look_up(one.metrics, path) for one in runs] for name, path in paths.items()}
    return {name: None if None in values else mean(values) for name, values in found.items()}


def as_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """The table as people read it."""
    return pd.DataFrame([in_words(row) for row in rows]).set_index("setting")


def in_words(row: Row) -> dict[str, str]:
    """One row, every cell text."""
    counter = {name: "-" if value is None else f"{value:.2f}" for name, value in row.figures.items()}
    return {
        "setting": row.name,
        "lines": f"{row.lines:.1%}",
        "characters": f"{row.characters:,}",
        "core": f"{row.core:.3f}",
        "all": f"{row.every:.3f}",
        "against baseline": gap_in_words(row.against_baseline),
        "against control": gap_in_words(row.against_control),
        **counter,
        "verdict": row.verdict,
    }


def gap_in_words(gap: Difference | None) -> str:
    """-0.021 [-0.040, -0.003] p 0.03."""
    return f"{gap.estimate:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}] p {gap.p:.3f}" if gap else "-"


def conclusion(result: Result) -> str:
    """What was shown, in two sentences."""
    test, chosen = result.test, result.chosen
    if chosen == result.baseline:
        return f"Validation chose {chosen}: nothing else fitted the core turns better. Test: {test.core:.3f} bits."
    words = gap_in_words(test.against_baseline)
    control = f", against its control {gap_in_words(test.against_control)}" if test.against_control else ""
    return f"Validation chose {chosen}. Test, read once: against {result.baseline} {words}{control}: {test.verdict}."


# --- the command


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--strategies", help="a,b,c; default: all of params.yaml")
    parser.add_argument("--over", help="another parameter, such as train.rank")
    parser.add_argument("--values", help="its values: a,b,c")
    parser.add_argument("--seeds", type=int, default=3, help="paired trainings of each setting (3)")
    parser.add_argument("--steps", type=int, help="optimiser steps of each; default: what the uncleaned text takes")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a parameter for all runs")
    return parser.parse_args(arguments)


def main() -> None:
    plan = make_plan(options_of())
    refuse_untracked(inputs())
    say(f"{len(plan.settings)} settings x {len(plan.seeds)} seeds, {plan.shared.get(STEPS, 'own')} steps")
    runs, failed = run_all(plan, refuse_unfair)
    if not runs:
        raise InputError("compare: no run finished; the words of the first failure stand above")
    result = compare(runs, plan)
    frame = as_frame(result.rows)
    print(frame.to_string())
    print(f"\n{conclusion(result)}")
    write_page(PAGE, result.rows, frame, conclusion(result), len(plan.seeds))
    say(f"{PAGE}" + (f"; failed: {', '.join(failed)}" if failed else ""))


if __name__ == "__main__":
    run(main)
