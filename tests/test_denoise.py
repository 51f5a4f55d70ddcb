"""The rules by case files, the stage by its laws.

A case in tests/cases/denoise/ is named after its rule (or `keep`: what every strategy leaves alone): input, a line
`# output`, what is left. A case of a script rule has `name：text` lines, bare narration, and a blank line between
dialogues; `= scene 002 of group 001` opens a scene.
"""

import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.denoise import HOLES, check, denoise, open_ledger, run_rules, spots_of
from stages.params import load_params
from stages.records import Dialogue, InputError, Piece, Turn, read_dialogues
from stages.rules import PLAIN, REPAIRS, RULES, collapse_filler, is_filler
from stages.script_rules import SCRIPT_RULES, DenoiseParams, Spot, Texts, language

ROOT = Path(__file__).parent.parent
CASES = sorted((ROOT / "tests" / "cases" / "denoise").glob("*.txt"))
PARAMS = load_params("denoise", DenoiseParams, ROOT / "params.yaml")
SHIPPED = list(PARAMS.strategies)


# --- the rules


def rule_of(case: Path) -> str:
    return case.stem.split("-")[0]


def read_case(case: Path) -> tuple[list[str], list[str]]:
    before, _, after = case.read_text(encoding="utf-8").partition("# output\n")
    return before.split("\n")[:-1], after.split("\n")[:-1]


def dialogues_from(lines: list[str]) -> list[Dialogue]:
    """The dialogues that a case of a script rule writes down."""
    dialogues, scene, group, part = [], "001", "001", []
    for number, line in enumerate([*lines, ""], 1):
        if line and not line.startswith("= "):
            part.append((number, line))
        elif part:
            name = f"a.txt#{scene}.{sum(d.id.startswith(f'a.txt#{scene}.') for d in dialogues) + 1}"
            dialogues.append(Dialogue(name, "a.txt", scene, f"a.txt#{group}", "train", turns_from(part)))
            part = []
        if line.startswith("= "):
            scene, group = re.fullmatch(r"= scene (\d+) of group (\d+)", line).groups()
    return dialogues


def turns_from(lines: list[tuple[int, str]]) -> tuple[Turn, ...]:
    turns, context = [], []
    for number, line in lines:
        speaker, colon, text = line.partition("：")
        if not colon or speaker not in ("他", "她"):
            context.append(Piece(number, "narration", line))
            continue
        piece = Piece(number, "speech", text)
        if turns and turns[-1].speaker == speaker:
            turns[-1] = replace(turns[-1], lines=(*turns[-1].lines, piece), context=(*turns[-1].context, *context))
        else:
            turns.append(Turn(speaker, (piece,), tuple(context)))
        context = []
    if context:
        turns[-1] = replace(turns[-1], context=(*turns[-1].context, *context))
    return tuple(turns)


def after_rules(names: list[str], lines: list[str]) -> list[str]:
    spots = [spot for dialogue in dialogues_from(lines) for spot in spots_of(dialogue, "她")]
    texts, _ = run(names, spots, [spot.piece.text for spot in spots], PARAMS)
    return [f"{spot.speaker}：{text}" for spot, text in zip(spots, texts, strict=True) if text is not None]


def run(names: list[str], spots: list[Spot], texts: Texts, params: DenoiseParams) -> tuple[Texts, list[dict]]:
    """The texts after some rules, and the receipts."""
    ledger = open_ledger(spots, [spot.piece.text for spot in spots])
    params = replace(params, strategy="own", strategies={"own": names})
    texts, receipts, _ = run_rules(spots, texts, params, ledger)
    return texts, receipts


@pytest.mark.parametrize("case", [c for c in CASES if rule_of(c) in RULES], ids=lambda case: case.stem)
def test_a_line_rule_does_what_its_case_says_and_nothing_the_second_time(case):
    before, expected = read_case(case)
    rule = RULES[rule_of(case)]
    after = [text for text in map(rule, before) if text is not None]
    assert after == expected
    assert [rule(text) for text in after] == after


@pytest.mark.parametrize("case", [c for c in CASES if rule_of(c) in SCRIPT_RULES], ids=lambda case: case.stem)
def test_a_script_rule_does_what_its_case_says(case):
    before, expected = read_case(case)
    assert after_rules([rule_of(case)], before) == expected


@pytest.mark.parametrize("strategy", SHIPPED)
@pytest.mark.parametrize("case", [c for c in CASES if rule_of(c) == "keep"], ids=lambda case: case.stem)
def test_no_strategy_touches_what_is_to_be_kept(case, strategy):
    lines, _ = read_case(case)
    assert after_rules(PARAMS.strategies[strategy], lines) == lines


def test_every_rule_has_a_case_and_every_case_a_rule():
    assert {rule_of(case) for case in CASES} == {*RULES, *SCRIPT_RULES, "keep"}


def test_every_rule_is_in_some_shipped_strategy_or_is_a_choice_of_one_that_is():
    used = {name for names in PARAMS.strategies.values() for name in names}
    assert {*RULES, *SCRIPT_RULES} - used == {"collapse_fillers"}


TEXT = st.text("我不是好嗯啊呜哈あーんうそアHhMmWwt·…。．・.、，,！!？?-—（）()[]{}<>/ib*♪～ 　\u200b1①%é", max_size=24)


@settings(max_examples=400, deadline=None)
@given(TEXT)
@pytest.mark.parametrize("name", RULES)
def test_a_line_rule_applied_twice_is_applied_once(name, text):
    once = RULES[name](text)
    assert once is None or RULES[name](once) in ((once,) if once else ("", None))


@settings(max_examples=400, deadline=None)
@given(st.from_regex(PLAIN, fullmatch=True))
@pytest.mark.parametrize("name", REPAIRS)
def test_a_repair_has_nothing_to_do_with_a_plain_line(name, text):
    assert not text or REPAIRS[name](text) == text


@settings(max_examples=400, deadline=None)
@given(TEXT)
def test_a_collapsed_filler_stays_as_it_is(text):
    if is_filler(text):
        assert collapse_filler(collapse_filler(text)) == collapse_filler(text)


def test_patterns_do_not_explode():
    for text in (
        "我" + "…" * 5000 + "好",
        "（" * 5000,
        "嗯" * 5000 + "好",
        "[" * 5000,
        "*" * 4999,
        "-h" * 3000,
        "うあ" * 3000,
        "啊呀" * 3000 + "好",
        "{i}" * 500,
    ):
        for rule in RULES.values():
            rule(text)
        is_filler(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("今天天气真好。", "zh"),
        ("今日はいい天気ですね。", "ja"),
        ("The lamp is lit.", "en"),
        ("亚托莉说 OK.", "zh"),
        ("오늘은 날씨가 좋네요.", "ko"),
        ("Сегодня хорошая погода.", "other"),
        ("A very long English sentence about 亚托莉 and the sea.", "en"),
    ],
)
def test_the_language_of_a_script_is_told_by_its_letters(text, expected):
    assert language([text]) == expected


# --- the stage


def script(*dialogues: list[tuple[str, ...]], split: str = "train") -> list[Dialogue]:
    """Dialogues of turns: a speaker and his lines."""
    made, number = [], 0
    for index, turns in enumerate(dialogues, 1):
        built = []
        for speaker, *texts in turns:
            pieces = tuple(Piece(number := number + 1, "speech", text) for text in texts)
            built.append(Turn(speaker, pieces))
        made.append(Dialogue(f"a.txt#001.{index}", "a.txt", "一", "a.txt#001", split, tuple(built)))
    return made


def with_rules(*names: str, **others) -> DenoiseParams:
    return replace(PARAMS, strategy="own", strategies={"own": list(names)}, **others)


def spoken(dialogues: list[Dialogue]) -> list[list[tuple]]:
    return [[(t.speaker, "/".join(p.text for p in t.lines), t.learn) for t in d.turns] for d in dialogues]


HOLE = script([("他", "早。"), ("她", "……"), ("他", "走吧。"), ("她", "好！", "走！")])


def test_a_hole_joins_its_neighbours():
    clean, _, _ = denoise(HOLE, with_rules("drop_marks_only", holes="drop"), "她")
    assert spoken(clean) == [[("他", "早。/走吧。", False), ("她", "好！/走！", True)]]


def test_a_hole_may_stay_as_context_without_loss():
    clean, _, _ = denoise(HOLE, with_rules("drop_marks_only", holes="mask"), "她")
    assert spoken(clean) == [
        [("他", "早。", False), ("她", "……", False), ("他", "走吧。", False), ("她", "好！/走！", True)]
    ]


def test_a_hole_may_end_the_dialogue():
    dialogue = script([("他", "早。"), ("她", "早！"), ("他", "……"), ("她", "好！"), ("他", "走。"), ("她", "走！")])
    clean, _, _ = denoise(dialogue, with_rules("drop_marks_only", holes="cut"), "她")
    assert spoken(clean) == [
        [("他", "早。", False), ("她", "早！", True)],
        [("他", "走。", False), ("她", "走！", True)],
    ]
    assert len({d.id for d in clean}) == 2


def test_a_dialogue_with_nothing_left_to_learn_vanishes():
    clean, _, report = denoise(script([("他", "早。"), ("她", "……")]), with_rules("drop_marks_only"), "她")
    assert clean == []
    assert (report["learned_turns_in"], report["learned_turns_out"]) == (1, 0)


def test_the_test_split_is_never_looked_at():
    held_out = script([("他", "早。"), ("她", "……")], split="test")
    clean, receipts, report = denoise(held_out, with_rules("drop_marks_only"), "她")
    assert (clean, receipts, report["lines_in"]) == ([], [], 0)


def test_a_receipt_names_the_rule_the_place_and_what_was_there():
    _, receipts, _ = denoise(HOLE, with_rules("drop_marks_only"), "她")
    assert receipts == [
        {"rule": "drop_marks_only", "file": "a.txt", "line": 2, "speaker": "她", "before": "……", "after": None}
    ]


def test_a_line_of_which_a_rule_leaves_nothing_is_dropped_and_counted():
    dialogue = script([("他", "早。"), ("她", "{i}{/i}", "好！")])
    clean, receipts, report = denoise(dialogue, with_rules("strip_tags"), "她")
    assert spoken(clean)[0][1] == ("她", "好！", True)
    assert receipts[0]["after"] is None and report["rules"]["strip_tags"]["dropped"] == 1


def test_a_word_of_the_work_may_be_taken_off_the_swear_list():
    dialogue = script([("他", "卧槽，是你。"), ("她", "混蛋先生！")])
    rules = ("drop_strong_swearing", "drop_mild_swearing")
    assert denoise(dialogue, with_rules(*rules), "她")[0] == []
    clean, _, _ = denoise(dialogue, with_rules(*rules, swear_allow=["卧槽", "混蛋"]), "她")
    assert len(clean[0].turns) == 2


def test_a_word_of_the_work_is_taken_off_by_its_plain_form():
    dialogue = script([("他", "我操！是你。"), ("她", "操，又停电了。")])
    _, receipts, _ = denoise(dialogue, with_rules("drop_strong_swearing", swear_allow=["我操"]), "她")
    assert [receipt["before"] for receipt in receipts] == ["操，又停电了。"]


def test_a_speaker_of_many_words_has_her_short_lines_compared_by_letters_still():
    name = "The Old Woman of the Light House"
    said = script([("he", "Well?"), (name, "Good mornings!")], [("he", "And?"), (name, "Good morningss!")])
    _, receipts, _ = denoise(said, with_rules("drop_near_duplicate_lines"), name)
    assert [(row["rule"], row["before"]) for row in receipts] == [("drop_near_duplicate_lines", "Good morningss!")]


@pytest.mark.parametrize("fillers", ["drop", "collapse", "describe"])
def test_the_rule_fillers_follows_its_parameter(fillers):
    lines = ["他：说吧。", "她：嗯嗯啊……", "她低下头。"]
    spots = [spot for dialogue in dialogues_from(lines) for spot in spots_of(dialogue, "她")]
    texts, _ = run(["fillers"], spots, [spot.piece.text for spot in spots], replace(PARAMS, fillers=fillers))
    assert texts[1] == {"drop": None, "collapse": "嗯……", "describe": "嗯……（低下头）"}[fillers]


def test_the_control_drops_as_many_lines_of_each_speaker_by_lot_and_changes_none():
    many = script(
        *[
            [("他", f"第{i}句。"), ("她", "……" if i % 3 else f"好{i}！"), ("他", "嗯。"), ("她", "走！")]
            for i in range(60)
        ]
    )
    params = with_rules("squash_ellipses", "drop_marks_only")
    _, by_rule, report = denoise(many, params, "她")
    _, by_lot, control = denoise(many, replace(params, control=True), "她")
    assert dropped_by_speaker(by_lot) == dropped_by_speaker(by_rule) == {"她": 40}
    assert control["lines_out"] == report["lines_out"]
    assert {receipt["rule"] for receipt in by_lot} == {"control"}
    assert {r["line"] for r in by_lot} != {r["line"] for r in by_rule}
    assert denoise(many, replace(params, control=True), "她")[1] == by_lot, "seeded"
    assert denoise(many, replace(params, control=True, seed=2), "她")[1] != by_lot


def dropped_by_speaker(receipts: list[dict]) -> Counter:
    return Counter(receipt["speaker"] for receipt in receipts if receipt["after"] is None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"strategy": "strong"}, "`denoise.strategy`: expected one of none, light"),
        ({"holes": "fill"}, "expected one of drop, mask, cut; got 'fill'"),
        ({"fillers": "keep"}, "`denoise.fillers`"),
        ({"language": "fr"}, "`denoise.language`"),
        ({"near_duplicate": 80.0}, "expected a share up to 1, got 80.0"),
        ({"strategies": {"standard": ["drop_all"]}}, "names no rule 'drop_all'"),
        ({"strategies": {"standard": ["fillers", "fillers"]}}, "names 'fillers' twice"),
        ({"strategies": {"standard": None}}, "expected a list of rules"),
    ],
)
def test_a_wrong_parameter_is_refused_with_what_is_allowed(change, reason):
    with pytest.raises(InputError, match=re.escape(reason)):
        check(
            replace(
                PARAMS,
                strategy=change.get("strategy", "standard"),
                **{k: v for k, v in change.items() if k != "strategy"},
            )
        )


# --- the laws, on made-up dialogues and on the sample


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> list[Dialogue]:
    """The dialogues of the sample work."""
    folder = tmp_path_factory.mktemp("sample")
    for name in ("params.yaml", "stages", "raw"):
        (folder / name).symlink_to(ROOT / name)
    for stage in ("extract", "filter"):
        command = [sys.executable, "-m", f"stages.{stage}"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, env={"PYTHONDONTWRITEBYTECODE": "1"})
    return list(read_dialogues(folder / "processed" / "dialogues.jsonl"))


@pytest.mark.parametrize("holes", HOLES)
@pytest.mark.parametrize("strategy", SHIPPED)
def test_the_sample_denoised_twice_is_denoised_once(sample, strategy, holes):
    params = replace(PARAMS, strategy=strategy, holes=holes)
    once, _, _ = denoise(sample, params, "亚托莉")
    twice, _, _ = denoise(once, params, "亚托莉")
    assert twice == once


@pytest.mark.parametrize("text", ["①あ", "①Hm"])
def test_a_line_that_is_a_filler_has_one_to_be_collapsed_to(text):
    assert is_filler(text) and collapse_filler(text) == text[1:]


TURNS = st.lists(st.lists(TEXT, min_size=1, max_size=3), min_size=1, max_size=8)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(TURNS, min_size=1, max_size=4), st.sampled_from(SHIPPED))
def test_a_strategy_applied_twice_is_applied_once(dialogues, strategy):
    made = script(*[[("他她"[i % 2], *texts) for i, texts in enumerate(turns)] for turns in dialogues])
    spots = [spot for dialogue in made for spot in spots_of(dialogue, "她")]
    names, params = PARAMS.strategies[strategy], replace(PARAMS, language="zh")
    once, _ = run(names, spots, [spot.piece.text for spot in spots], params)
    twice, receipts = run(names, spots, once, params)
    assert (twice, receipts) == (once, [])


@pytest.mark.parametrize("strategy", SHIPPED)
def test_the_receipts_add_up_and_replay_to_the_clean_lines(sample, strategy):
    clean, receipts, report = denoise(sample, replace(PARAMS, strategy=strategy), "亚托莉")
    lines = lines_of(sample)
    for receipt in receipts:
        at_place = lines[receipt["file"], receipt["line"]]
        at_place[at_place.index(receipt["before"])] = receipt["after"]
    kept = [text for at_place in lines.values() for text in at_place if text is not None]
    assert len(kept) == report["lines_out"] == report["lines_in"] - sum(r["dropped"] for r in report["rules"].values())
    assert sum(map(len, kept)) == report["characters_out"]
    learned = [piece.text for d in clean for turn in d.turns if turn.learn for piece in turn.lines]
    assert not Counter(learned) - Counter(kept)
    assert sum(t.learn for d in clean for t in d.turns) == report["learned_turns_out"]
    assert sum(map(len, learned)) == report["learned_characters_out"]


def lines_of(dialogues: list[Dialogue]) -> dict[tuple[str, int], list[str | None]]:
    """The lines at each place; a paragraph of two glued messages has two."""
    lines: dict[tuple[str, int], list[str | None]] = {}
    for piece, file in [(p, d.file) for d in dialogues if d.split != "test" for t in d.turns for p in t.lines]:
        lines.setdefault((file, piece.line), []).append(piece.text)
    return lines


@pytest.mark.parametrize("strategy", SHIPPED)
def test_what_a_rule_lets_through_is_what_the_next_one_gets(sample, strategy):
    _, _, report = denoise(sample, replace(PARAMS, strategy=strategy), "亚托莉")
    for key in ("lines", "characters", "learned_turns", "learned_characters"):
        figures = [(rule[f"{key}_in"], rule[f"{key}_out"]) for rule in report["rules"].values()]
        chain = [report[f"{key}_in"], *(n for pair in figures for n in pair)]
        assert chain[::2][: len(figures)] == chain[1::2], "each rule's input is the output of the one before"


@pytest.mark.parametrize("holes", HOLES)
@pytest.mark.parametrize("control", [False, True])
def test_clean_dialogues_alternate_and_open_with_the_partner(sample, holes, control):
    clean, _, _ = denoise(sample, replace(PARAMS, strategy="strict", holes=holes, control=control), "亚托莉")
    assert clean and {dialogue.split for dialogue in clean} == {"train", "validation"}
    for dialogue in clean:
        assert [turn.speaker for turn in dialogue.turns] == ["夏生", "亚托莉"] * (len(dialogue.turns) // 2)
        assert all(turn.lines for turn in dialogue.turns) and dialogue.turns[-1].learn
    assert len({dialogue.id for dialogue in clean}) == len(clean)
