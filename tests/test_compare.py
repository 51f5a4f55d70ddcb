"""The statistics by hand, the choice and its fairness on made-up runs, the experiments in a real repository."""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dvc.repo import Repo
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML
from scipy.stats import t

from deploy.adapters import resolve
from deploy.compare import (
    as_frame,
    compare,
    conclusion,
    differing,
    make_plan,
    options_of,
    refuse_unfair,
    settings_of_strategies,
    settings_of_values,
    steps_without_cleaning,
    sums_by_scene,
    unfairness,
    value_of,
)
from deploy.compare_page import page
from deploy.experiments import (
    Plan,
    Run,
    Setting,
    assignment,
    experiment_name,
    finished,
    leaked,
    reference,
    refuse_untracked,
    run_all,
    start,
    with_overrides,
)
from deploy.paired import Difference, adjusted, difference, p_value, per_character, shows, verdict
from stages.records import InputError

ROOT = Path(__file__).parent.parent


# --- the statistics


def test_bits_per_character_are_sums_over_sums_averaged_over_seeds():
    assert per_character(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([1.0, 3.0])) == (3 / 4 + 7 / 4) / 2


def test_a_constant_gain_has_no_spread():
    characters = np.array([10.0, 20.0, 30.0])
    one = difference(np.zeros((3, 3)), np.tile(characters, (3, 1)), characters, 1000, 1)
    assert (one.estimate, one.by_seed) == (-1, (-1, -1, -1))
    assert (one.low, one.high) == pytest.approx((-1, -1))
    assert one.p == 2 / 1001 and one.detectable == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("count", [3, 15])
@pytest.mark.parametrize("comparisons", [1, 12])
def test_seeds_alone_or_scenes_alone_spread_as_students_t_says(count, comparisons):
    values = np.random.default_rng(1).normal(0, 0.03, count)
    error = values.std(ddof=1) / np.sqrt(count)
    for gaps in (values[:, None], values[None, :]):
        one = difference(gaps, np.zeros_like(gaps), np.ones(gaps.shape[1]), 200_000, 1, comparisons)
        assert (one.high - one.low) / 2 == pytest.approx(t.ppf(0.975, count - 1) * error, rel=0.03)
        assert one.detectable == pytest.approx(2.8 / 1.96 * t.ppf(1 - 0.025 / comparisons, count - 1) * error, rel=0.1)


def null_gaps(rng: np.random.Generator, of_seeds: float, of_scenes: float, base: np.ndarray | float = 0) -> np.ndarray:
    """Three trainings over fifteen scenes, of a setting that is no better than another."""
    return rng.normal(0, of_seeds, (3, 1)) + rng.normal(0, of_scenes, (1, 15)) - base


NO_GAIN = [(0, 0.03), (0.01, 0.03), (0.03, 0.03), (0.03, 0.003)]


@pytest.mark.parametrize(("of_seeds", "of_scenes"), NO_GAIN)
def test_an_interval_holds_the_truth_as_often_as_it_says_also_of_three_trainings(of_seeds, of_scenes):
    rng, tries = np.random.default_rng(2), 500
    found = [
        difference(null_gaps(rng, of_seeds, of_scenes), np.zeros((3, 15)), np.ones(15), 1000, seed)
        for seed in range(tries)
    ]
    noise = 2 * np.sqrt(0.95 * 0.05 / tries)
    assert np.mean([one.low <= 0 <= one.high for one in found]) >= 0.95 - noise
    assert np.mean([shows(one) is not None for one in found]) <= 0.05 + noise


@pytest.mark.parametrize(("of_seeds", "of_scenes"), NO_GAIN)
def test_a_table_without_a_gain_seldom_shows_one(of_seeds, of_scenes):
    """Eight settings against one baseline: Holm needs p values that are right far below 0.05."""
    rng, tries = np.random.default_rng(3), 100
    found = 0
    for seed in range(tries):
        base = null_gaps(rng, of_seeds, of_scenes)
        gaps = [null_gaps(rng, of_seeds, of_scenes, base) for _ in range(8)]
        row = adjusted([difference(one, np.zeros((3, 15)), np.ones(15), 2000, seed, 8) for one in gaps])
        found += any(shows(one) for one in row)
    assert found / tries <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / tries)


@pytest.mark.parametrize("comparisons", [1, 8])
@pytest.mark.parametrize(("of_seeds", "of_scenes"), NO_GAIN)
def test_a_gain_that_would_have_been_shown_is_shown_in_most_cases(of_seeds, of_scenes, comparisons):
    rng, zero = np.random.default_rng(4), np.zeros((3, 15))
    drawn = [null_gaps(rng, of_seeds, of_scenes) for _ in range(100)]
    reach = np.median([difference(one, zero, np.ones(15), 2000, 1, comparisons).detectable for one in drawn])
    found = [difference(one - reach, zero, np.ones(15), 2000, 1, comparisons) for one in drawn]
    assert np.mean([shows(one._replace(p=one.p * comparisons)) == "better" for one in found]) >= 0.65


def test_more_seeds_do_not_make_up_for_few_scenes():
    characters, bits = np.ones(4), np.array([[0.2, -0.1, 0.4, -0.3]])
    alone = difference(bits, np.zeros((1, 4)), characters, 4000, 1)
    thrice = difference(np.repeat(bits, 3, axis=0), np.zeros((3, 4)), characters, 4000, 1)
    assert thrice.high - thrice.low == pytest.approx(alone.high - alone.low, rel=0.1)


def test_seeds_that_disagree_widen_the_interval():
    characters, zero = np.ones(5), np.zeros((2, 5))
    agree = difference(np.full((2, 5), 0.1), zero, characters, 2000, 1)
    disagree = difference(np.array([[0.0] * 5, [0.2] * 5]), zero, characters, 2000, 1)
    assert disagree.estimate == pytest.approx(agree.estimate)
    assert disagree.high - disagree.low > agree.high - agree.low


def test_p_is_twice_the_smaller_tail_and_never_zero():
    assert p_value(np.array([-1.0, -1.0, -1.0, 1.0])) == 2 * 2 / 5
    assert p_value(np.array([-1.0] * 9)) == 2 * 1 / 10
    assert p_value(np.zeros(9)) == 1


def gap(estimate: float, p: float, by_seed: tuple[float, ...] | None = None) -> Difference:
    return Difference(estimate, estimate - 0.1, estimate + 0.1, p, 0.05, by_seed or (estimate,) * 3)


def test_p_values_are_adjusted_together():
    assert [one.p for one in adjusted([gap(-1, 0.01), gap(-1, 0.04), gap(-1, 0.03)])] == [0.03, 0.06, 0.06]


def test_a_difference_shows_if_it_is_beyond_chance_in_every_training():
    assert shows(gap(-0.2, 0.01)) == "better"
    assert shows(gap(0.2, 0.01)) == "worse"
    assert shows(gap(-0.2, 0.06)) is None
    assert shows(gap(-0.2, 0.01, (-0.5, -0.3, 0.2))) is None


@pytest.mark.parametrize(
    ("baseline", "control", "words"),
    [
        (gap(-0.2, 0.01), gap(-0.2, 0.01), "better"),
        (gap(-0.2, 0.01), None, "better"),
        (gap(0.2, 0.01), gap(-0.2, 0.01), "worse"),
        (gap(-0.2, 0.01), gap(-0.1, 0.3), "better, but no better than dropping as much at random"),
        (gap(-0.01, 0.6), gap(-0.2, 0.01), "no difference shown; one of 0.050 would have been"),
        (gap(-0.2, 0.01, (-0.2, -0.2)), None, "too few seeds to name a winner: 2 of 3"),
    ],
)
def test_a_verdict_in_words(baseline, control, words):
    assert verdict(baseline, control, controlled=control is not None) == words


def test_a_gain_whose_control_did_not_finish_is_not_called_one_of_the_cleaning():
    assert verdict(gap(-0.2, 0.01), None, controlled=True) == "better than the baseline; its control did not finish"
    plan = made_plan("standard")
    runs = [one for one in runs_of(plan, {"standard": 0.1}) if one.setting != "standard (control)" or one.seed > 1]
    result = compare(runs, plan)
    assert result.rows[1].verdict == result.test.verdict == "better than the baseline; its control did not finish"


# --- made-up runs

SCENES = 12


def made_run(setting: str, seed: int, gain: float = 0.0, test_gain: float | None = None, **changes) -> Run:
    """A run whose adapter takes 4 - gain bits a character; the test split may differ from validation."""
    rng = np.random.default_rng([seed, 7])
    rows = []
    for number in range(SCENES):
        for split, its_gain in (("validation", gain), ("test", gain if test_gain is None else test_gain)):
            noise = rng.normal(0, 0.02)
            rows.append([f"{split}{number}", split, True, 100, 500.0, 100 * (4 - its_gain + noise)])
            rows.append([f"{split}{number}", split, False, 50, 250.0, 50 * (4 + gain)])
    metrics = {
        "scenes": rows,
        "provenance": dict.fromkeys(("exam_sha256", "probes_sha256", "base_model", "device"), "same"),
        "adapter": {"voice": 0.5, "rank_hits_1": 0.4},
        "scorecard": {"swearing": {"chat": {"adapter": {"rate": 0.0}}}},
    }
    name, control = setting.removesuffix(" (control)"), setting.endswith("(control)")
    params = {"denoise": {"strategy": name, "control": control, "seed": seed}, "train": {"seed": seed, "rank": 16}}
    denoised = {"lines_in": 100, "lines_out": 90, "learned_characters_out": 1234}
    return Run(setting, seed, metrics, denoised, params, 20, 0)._replace(**changes)


def made_plan(*names: str, seeds: int = 3) -> Plan:
    settings = settings_of_strategies(names)
    varied = {"denoise.strategy", "denoise.control", "denoise.seed", "train.seed"}
    return Plan(settings, list(range(1, seeds + 1)), {"train.max_steps": 20}, frozenset(varied))


def runs_of(plan: Plan, gains: dict[str, float], tests: dict[str, float] | None = None) -> list[Run]:
    return [
        made_run(one.name, seed, gains.get(one.name, 0.0), (tests or {}).get(one.name))
        for one in plan.settings
        for seed in plan.seeds
    ]


def test_a_strategy_with_a_true_gain_over_its_control_wins():
    plan = made_plan("standard")
    result = compare(runs_of(plan, {"standard": 0.1}), plan)
    assert (result.chosen, result.test.verdict) == ("standard", "better")
    assert [row.verdict for row in result.rows[:2]] == ["baseline", "better"]
    assert result.rows[1].against_baseline.estimate == pytest.approx(-0.1)
    assert "Validation chose standard. Test, read once" in conclusion(result)


def test_the_same_strategy_under_two_names_shows_no_difference():
    plan = made_plan("standard", "twin")
    result = compare(runs_of(plan, {}), plan)
    assert {row.verdict for row in result.rows[1:]} == {"no difference shown; one of 0.000 would have been"}
    assert all(row.against_baseline.p == 1 for row in result.rows[1:])


def test_less_text_that_helps_no_more_than_chance_is_no_merit_of_the_rules():
    plan = made_plan("strict")
    result = compare(runs_of(plan, {"strict": 0.1, "strict (control)": 0.1}), plan)
    assert result.rows[1].verdict == "better, but no better than dropping as much at random"


def test_the_choice_does_not_see_the_test_split():
    plan = made_plan("light", "strict")
    result = compare(runs_of(plan, {"light": 0.1}, {"light": -0.2, "strict": 0.5}), plan)
    assert (result.chosen, result.test.verdict) == ("light", "worse")


def test_a_control_is_never_chosen():
    plan = made_plan("light")
    assert compare(runs_of(plan, {"light (control)": 0.5}), plan).chosen in ("none", "light")


def test_turns_that_rules_would_touch_do_not_decide():
    """Outside the core turns a made-up gain is a loss as large: they stand beside, in `all`."""
    plan = made_plan("light")
    row = compare(runs_of(plan, {"light": 0.1}), plan).rows[1]
    assert row.core < row.every


def test_a_setting_that_did_not_finish_with_every_seed_is_left_out():
    plan = made_plan("light", "strict")
    runs = [one for one in runs_of(plan, {}) if (one.setting, one.seed) != ("strict", 2)]
    assert [row.name for row in compare(runs, plan).rows] == ["none", "light", "light (control)", "strict (control)"]


def test_without_the_baseline_there_is_nothing_to_compare_with():
    plan = made_plan("light")
    with pytest.raises(InputError, match="the baseline and one more setting must have finished"):
        compare([one for one in runs_of(plan, {}) if one.setting != "none"], plan)


def test_scenes_are_summed_by_split_and_core():
    rows = [["a", "test", True, 10, 9.0, 5.0], ["a", "test", False, 2, 9.0, 4.0], ["b", "train", True, 1, 9.0, 1.0]]
    assert sums_by_scene(rows, "test", core=True) == {"a": (10, 5.0)}
    assert sums_by_scene(rows, "test", core=False) == {"a": (12, 9.0)}


def other(run: Run, **changes) -> Run:
    return run._replace(metrics={**run.metrics, "provenance": {**run.metrics["provenance"], **changes}})


@pytest.mark.parametrize(
    ("plant", "reason"),
    [
        (lambda run: other(run, exam_sha256="own"), "another exam_sha256 than none, seed 1"),
        (lambda run: other(run, device="cuda"), "another device"),
        (lambda run: run._replace(steps=40), "40 optimiser steps, not 20"),
        (lambda run: run._replace(params={**run.params, "train": {"seed": 1, "rank": 64}}), "train.rank differs"),
        (lambda run: run._replace(leaks=2), "2 training dialogues are near duplicates of held-out ones"),
        (
            lambda run: run._replace(metrics={**run.metrics, "scenes": run.metrics["scenes"][1:]}),
            "other turns are scored",
        ),
    ],
)
def test_a_planted_advantage_is_caught(plant, reason):
    plan = made_plan("light")
    runs = runs_of(plan, {})
    assert list(unfairness(runs, plan)) == []
    with pytest.raises(InputError, match=re.escape(reason)):
        refuse_unfair([*runs[:4], plant(runs[4]), *runs[5:]], plan)


def test_a_held_out_dialogue_in_the_training_text_is_found():
    exam = [
        {"part": "line", "speaker": "她", "text": "早！"},
        held_out("test", "今天的海比昨天的海还要安静得多呢。", "是的，风是二级，浪高零点五米！"),
        held_out("train", "灯塔守则第一条是什么来着？", "无论如何不许熄灯，绝对不许！"),
        held_out("validation", "好。", "嗯。"),
    ]
    train = [
        trained("leak", "今天的海比昨天的海还要安静得多呢……", "是的！风是二级，浪高零点五米"),
        trained("own", "灯塔守则第一条是什么来着？", "无论如何不许熄灯，绝对不许！"),
        trained("short", "好。", "嗯。"),
    ]
    assert leaked(train, exam) == ["leak"]


def held_out(split: str, *texts: str) -> dict:
    return {"part": "dialogue", "split": split, "turns": [{"lines": [{"text": text}]} for text in texts]}


def trained(name: str, *texts: str) -> dict:
    messages = [{"role": "system", "content": "你是她。"}, *[{"role": "user", "content": text} for text in texts]]
    return {"id": name, "messages": messages}


def test_the_lists_that_measure_are_not_the_lists_that_clean():
    cleaning = {"rules.py", "script_rules.py", "swears.yaml", "rules", "script_rules"}
    for name in ("swearing", "languages", "failures", "voice"):
        source = (ROOT / "stages" / f"{name}.py").read_text(encoding="utf-8")
        assert not [word for word in cleaning if f"stages.{word}" in source or f'"{word}"' in source], name


# --- what is shown


def test_the_table_and_the_page_say_the_same_without_loading_anything():
    plan = made_plan("standard")
    result = compare(runs_of(plan, {"standard": 0.1}), plan)
    frame = as_frame(result.rows)
    assert list(frame.index) == ["none", "standard", "standard (control)"]
    assert frame.loc["standard", "lines"] == "90.0%" and frame.loc["none", "against baseline"] == "-"
    html = page(result.rows, frame, conclusion(result), 3)
    assert "better" in html and html.count("<circle") == 3
    assert not re.search(r"<script|https?://|src=", html)


# --- what is asked for


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The project's parameters in a folder of their own."""
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "filter.json").write_text(json.dumps({"dialogues": {"train": 100}}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_strategy_but_none_has_a_control(project):
    plan = make_plan(options_of([]))
    names = [one.name for one in plan.settings]
    assert names[0] == "none" and "strict (control)" in names and "none (control)" not in names
    assert plan.seeds == [1, 2, 3]


def test_all_settings_take_the_same_steps_and_none_stops_early(project):
    plan = make_plan(options_of(["--strategies", "light"]))
    params = YAML(typ="safe").load(Path("params.yaml"))["train"]
    assert plan.shared == {"train.patience": 0, "train.max_steps": params["epochs"] * -(-100 // params["batch_size"])}
    assert make_plan(options_of(["--steps", "5"])).shared["train.max_steps"] == 5


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        (["train.max_steps=16"], 16),
        (["train.epochs=1"], 13),
        (["train.epochs=2", "train.batch_size=1"], 200),
        (["train.epochs=2", "train.max_steps=0"], 26),
    ],
)
def test_the_steps_are_those_of_what_all_runs_share(project, changes, steps):
    plan = make_plan(options_of([part for change in changes for part in ("--set", change)]))
    assert plan.shared["train.max_steps"] == steps


def test_another_parameter_may_be_compared_with_its_present_value_first(project):
    names = [one.name for one in settings_of_values("train.rank", ["4", "16", "64"])]
    assert names == ["train.rank=16", "train.rank=4", "train.rank=64"]
    plan = make_plan(options_of(["--over", "train.epochs", "--values", "1,3"]))
    assert "train.max_steps" not in plan.shared


def test_values_are_read_as_yaml_1_2():
    assert [value_of(text) for text in ("4", "1.0e-4", "on", "true", "null", "a/b")] == [
        4,
        1e-4,
        "on",
        True,
        None,
        "a/b",
    ]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--over", "train.rank"], "expected --values a,b,c"),
        (["--strategies", "none"], "at least two settings"),
        (["--set", "rank=4"], "expected --set section.key=value"),
        (["--set", "train.batch_size=0"], "whole number above 0 for train.batch_size, got 0"),
        (["--set", "train.epochs=few"], "whole number above 0 for train.epochs, got 'few'"),
        (["--set", "train.max_steps=16", "--steps", "5"], "got --steps and --set train.max_steps"),
        (["--over", "train.epochs", "--values", "1,3", "--steps", "5"], "got --steps and --over train.epochs"),
    ],
)
def test_a_wrong_option_is_refused(project, arguments, reason):
    with pytest.raises(InputError, match=reason):
        make_plan(options_of(arguments))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--strategies", "light,foo"], r"strategy 'foo'\n.*`denoise.strategies` has none, light, standard"),
        (["--over", "train.rnk", "--values", "4,16"], r"`train.rnk`\n.*`train` has base_model, .*rank"),
        (["--over", "trian.rank", "--values", "4,16"], r"`trian`\n.*params.yaml has extract, filter"),
        (["--over", "denoise.strategy", "--values", "none,foo"], "strategy 'foo'"),
        (["--set", "train.decoding.top_q=1"], r"`train.decoding.top_q`\n.*top_p"),
        (["--set", "train.rank.size=1"], r"`train.rank.size`\n.*the value 16"),
    ],
)
def test_what_params_yaml_lacks_is_refused_before_a_training(project, arguments, words):
    with pytest.raises(InputError, match=words):
        make_plan(options_of(arguments))


def test_without_a_report_of_filter_the_steps_must_be_named(project):
    (project / "reports" / "filter.json").unlink()
    with pytest.raises(InputError, match="dvc repro filter"):
        steps_without_cleaning({})


def test_an_experiments_name_is_a_plain_one():
    assert experiment_name(Setting("train.rank=4", {}), 2, 20) == "train-rank-4-20-seed2"
    assert experiment_name(Setting("strict (control)", {}), 1, None) == "strict-control-seed1"


def test_settings_whose_names_git_cannot_take_stay_apart():
    names = [experiment_name(Setting(f"filter.character={who}", {}), 1, None) for who in ("亚托莉", "夏生")]
    assert len(set(names)) == 2
    assert all(re.fullmatch(r"filter-character-[0-9a-f]{8}-seed1", name) for name in names)
    assert re.fullmatch(r"[0-9a-f]{8}-20-seed1", experiment_name(Setting("严格", {}), 1, 20))


def test_dvc_reads_the_values_that_were_meant(tmp_path):
    params = tmp_path / "params.yaml"
    values = {"who": "亚托莉", "said": '早，"夏生": 😀', "rank": 4, "rate": 1e-4, "off": None, "control": False}
    params.write_text("".join(f"{key}: x\n" for key in values), encoding="utf-8")
    apply_overrides(params, [assignment(key, value) for key, value in values.items()])
    assert YAML(typ="safe").load(params) == values


def test_parameters_are_compared_key_by_key():
    one, two = {"a": {"b": 1, "c": [1]}, "d": 1}, {"a": {"b": 2, "c": [1]}, "e": 1}
    assert differing(one, two) == {"a.b", "d", "e"}


# --- experiments in a real repository

PIPELINE = """stages:
  all:
    cmd: python make.py
    deps: [make.py, stages]
    params: [denoise.strategy, denoise.control, denoise.seed, train.seed, train.max_steps, train.patience]
    outs: [processed/dataset/train.jsonl, processed/exam.jsonl]
    metrics:
      - reports/metrics.json: {cache: false}
      - reports/denoise.json: {cache: false}
    plots:
      - reports/train.tsv: {cache: false}
"""
MAKE = """
import json, pathlib, sys, yaml
params = yaml.safe_load(open("params.yaml"))
if params["denoise"]["strategy"] == "broken":
    sys.exit("no such rule")
for folder in ("processed/dataset", "reports"):
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
same = dict.fromkeys(("exam_sha256", "probes_sha256", "base_model", "device"), "same")
scenes = [[f"{s}{i}", s, True, 100, 500.0, 400.0 + i] for s in ("validation", "test") for i in range(5)]
metrics = {"scenes": scenes, "provenance": same, "adapter": {}, "scorecard": {}}
denoised = {"lines_in": 9, "lines_out": 8, "learned_characters_out": 70}
pathlib.Path("reports/metrics.json").write_text(json.dumps(metrics))
pathlib.Path("reports/denoise.json").write_text(json.dumps(denoised))
pathlib.Path("reports/train.tsv").write_text("step\\tloss\\n" + str(params["train"]["max_steps"]) + "\\t1.0\\n")
pathlib.Path("processed/dataset/train.jsonl").write_text(json.dumps({"id": "a", "messages": []}) + "\\n")
pathlib.Path("processed/exam.jsonl").write_text(json.dumps({"part": "line"}) + "\\n")
"""
PARAMS = """extract:
  source: raw/sample/script
format:
  work: raw/sample
denoise:
  strategy: light
  control: false
  seed: 1
train:
  seed: 1
  max_steps: 0
  patience: 0
"""


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A git repository with a toy pipeline."""
    files = {"dvc.yaml": PIPELINE, "make.py": MAKE, "params.yaml": PARAMS, "stages/a.py": "", ".gitignore": "/tmp\n"}
    for name, text in {**files, "raw/sample/script/a.txt": "甲：早。\n"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for key in ("GIT_AUTHOR", "GIT_COMMITTER"):
        monkeypatch.setenv(f"{key}_NAME", "test")
        monkeypatch.setenv(f"{key}_EMAIL", "test@example.org")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{Path('/usr/bin')}:{Path('/bin')}")
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["git", "add", "."], check=True)
    subprocess.run(["git", "commit", "-qm", "all"], check=True)
    return tmp_path


def test_an_input_that_git_does_not_know_is_refused_and_other_files_are_not(repository):
    paths = ["stages", "dvc.yaml", "raw/sample"]
    (repository / "notes.txt").write_text("mine")
    refuse_untracked(paths)
    (repository / "stages" / "new.py").write_text("")
    with pytest.raises(InputError, match=r"stages/new\.py"):
        refuse_untracked(paths)
    (repository / "stages" / "new.py").unlink()
    with pytest.raises(InputError, match="raw/mygame"):
        refuse_untracked([*paths, "raw/mygame"])


def as_experiment(name: str) -> None:
    """Make an experiment of the folder's present files, as DVC stores one."""
    subprocess.run(["git", "add", "."], check=True)
    commit = said("git", "commit-tree", said("git", "write-tree"), "-p", "HEAD", "-m", "x")
    head = said("git", "rev-parse", "HEAD")
    subprocess.run(["git", "update-ref", f"refs/exps/{head[:2]}/{head[2:]}/{name}", commit], check=True)


def said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_an_experiment_of_other_parameters_or_other_code_is_not_finished(repository):
    paths, params = ["stages", "dvc.yaml"], YAML(typ="safe").load(PARAMS)
    (repository / "reports").mkdir()
    (repository / "reports" / "metrics.json").write_text("{}")
    as_experiment("light")
    assert finished("light", params, paths)
    assert finished("strict", params, paths) is None
    assert finished("light", {**params, "train": {}}, paths) is None
    (repository / "stages" / "a.py").write_text("changed = True\n")
    assert finished("light", params, paths) is None


def test_an_experiment_of_another_version_of_the_users_text_is_not_finished(repository):
    """git ignores a folder that DVC holds: its versions differ in the pointer beside it or beside a parent."""
    params, paths = YAML(typ="safe").load(PARAMS), ["stages", "raw/mygame/script", "raw/mygame"]
    pointer = repository / "raw" / "mygame.dvc"
    pointer.write_text("outs:\n- md5: one\n  path: mygame\n")
    (repository / "reports").mkdir()
    (repository / "reports" / "metrics.json").write_text("{}")
    as_experiment("light")
    assert finished("light", params, paths)
    pointer.write_text("outs:\n- md5: two\n  path: mygame\n")
    assert finished("light", params, paths) is None
    assert finished("light", params, ["stages"]), "only the pointer differs"


def test_a_name_on_several_commits_is_the_experiment_made_last(repository, monkeypatch):
    made = []
    for baseline, day in (("aa", 2), ("bb", 3), ("cc", 1)):  # neither the first nor the last of git's own order
        monkeypatch.setenv("GIT_COMMITTER_DATE", f"2026-01-0{day}T00:00:00Z")
        command = ["git", "commit-tree", "HEAD^{tree}", "-m", baseline]
        made.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
        subprocess.run(["git", "update-ref", f"refs/exps/{baseline}/{'0' * 38}/wide", made[-1]], check=True)
    assert resolve("wide") == made[1]


def commit_for_dvc() -> None:
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], check=True)
    subprocess.run(["git", "add", "."], check=True)
    subprocess.run(["git", "commit", "-qm", "dvc"], check=True)


TWO_STAGES = """stages:
  train:
    cmd: echo trained >> HERE/trained && echo weights > model
    params: [train.seed]
    outs: [model]
  evaluate:
    cmd: test -e HERE/judge && cp stages/a.py score
    deps: [model, stages/a.py]
    metrics: [score]
"""


@pytest.mark.slow
def test_a_run_that_was_stopped_after_its_training_does_not_train_again(repository):
    (repository / "dvc.yaml").write_text(TWO_STAGES.replace("HERE", str(repository)))
    (repository / ".gitignore").write_text("/tmp\n/trained\n/judge\n")
    (repository / "stages" / "a.py").write_text("first\n")
    commit_for_dvc()
    assert "failed to reproduce 'evaluate'" in start("light", {"train.seed": 2})
    (repository / "judge").write_text("")
    assert start("light", {"train.seed": 2}) is None
    assert (repository / "trained").read_text() == "trained\n", "the run cache gave the weights"
    (repository / "stages" / "a.py").write_text("second\n")
    assert start("light", {"train.seed": 2}) is None, "an experiment of this name is replaced"
    assert said("git", "show", f"{reference('light')}:stages/a.py") == "second"


@pytest.mark.slow
def test_runs_resume_and_a_failed_one_does_not_stop_the_rest(repository):
    commit_for_dvc()
    settings = [Setting(name, {"denoise.strategy": name}) for name in ("none", "broken", "light")]
    plan = Plan(settings, [1], {"train.max_steps": 5, "train.patience": 0}, frozenset({"denoise.strategy"}))
    runs, failed = run_all(plan, refuse_unfair)
    assert [one.setting for one in runs] == ["none", "light"]
    assert failed == ["broken-5-seed1"]
    assert {one.steps for one in runs} == {5} and {one.leaks for one in runs} == {0}
    started = []
    again, _ = run_all(plan, refuse_unfair, start=lambda name, overrides: started.append(name))
    assert started == ["broken-5-seed1"], "the finished ones are not run again"
    assert again == runs


def test_the_first_unfair_run_ends_the_comparison(repository):
    """Every run takes minutes to hours: what cannot be compared is not found after the last one."""
    Repo.init()
    settings = [Setting(name, {"denoise.strategy": name}) for name in ("none", "light", "strict")]
    plan = Plan(settings, [1], {"train.max_steps": 5}, frozenset({"denoise.strategy"}))
    started = []

    def start_here(name: str, overrides: dict) -> None:
        started.append(name)
        changed = with_overrides(YAML(typ="safe").load(PARAMS), overrides)
        Path("params.yaml").write_text(json.dumps(changed))
        subprocess.run([sys.executable, "make.py"], check=True)
        if "light" in name:
            Path("reports/train.tsv").write_text("step\tloss\n40\t1.0\n")
        as_experiment(name)

    with pytest.raises(InputError, match=r"\n  light, seed 1: 40 optimiser steps, not 5\n"):
        run_all(plan, refuse_unfair, start=start_here)
    assert started == ["none-5-seed1", "light-5-seed1"]


def test_the_options_are_those_that_make_passes_on():
    options = options_of(["--over", "train.rank", "--values", "4,16"])
    assert isinstance(options, argparse.Namespace) and (options.over, options.values) == ("train.rank", "4,16")
