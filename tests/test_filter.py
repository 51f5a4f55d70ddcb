"""The pairing of turns and the split, by example and by law."""

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.filter import (
    FilterParams,
    Tally,
    assign_splits,
    build_dialogues,
    build_exam,
    pair,
    plan,
    split_scenes,
    unite_groups,
    unite_overlaps,
)
from stages.records import InputError, Line

PARAMS = FilterParams(
    character="她",
    partner="他",
    scene_lines=40,
    scene_narration=6,
    narration_gap=8,
    third_speaker="cut",
    min_turns=2,
    near_duplicate=0.5,
    validation_share=0.1,
    test_share=0.1,
    exam_train_dialogues=2,
    seed=1,
)


def script(*lines: tuple[str | None, str] | tuple[str | None, str, str], scene: str = "一") -> list[Line]:
    kinds = {None: "narration"}
    return [
        Line("a.txt", scene, number, speaker, text, *(rest or [kinds.get(speaker, "speech")]))
        for number, (speaker, text, *rest) in enumerate(lines, 1)
    ]


def dialogues_of(lines: list[Line], params: FilterParams = PARAMS) -> tuple[list[list[tuple[str, str]]], Tally]:
    tally = Tally()
    found = [turns for scene in split_scenes(lines, params) for turns in pair(scene, params, tally)]
    return [[(turn.speaker, "/".join(p.text for p in turn.lines)) for turn in turns] for turns in found], tally


def test_consecutive_lines_of_one_lead_form_one_turn_of_separate_lines():
    found, _ = dialogues_of(
        script(("他", "早。"), ("她", "早！"), ("她", "吃饭了吗？"), ("他", "没。"), ("她", "走！"))
    )
    assert found == [[("他", "早。"), ("她", "早！/吃饭了吗？"), ("他", "没。"), ("她", "走！")]]


def test_a_character_who_opens_answers_the_narration_before_her():
    found, tally = dialogues_of(
        script((None, "天亮了。"), ("她", "早！"), (None, "鸟叫。"), ("他", "早。"), ("她", "走！"))
    )
    assert found == [[("他", "天亮了。"), ("她", "早！"), ("他", "早。"), ("她", "走！")]]
    assert tally.used == 5


def test_a_character_who_opens_without_narration_is_left_out_for_that_reason():
    found, tally = dialogues_of(script(("她", "早！"), ("他", "早。"), ("她", "走！")))
    assert found == [[("他", "早。"), ("她", "走！")]]
    assert tally.left_out == {"opens_without_prompt": 1}


def test_narration_before_her_on_her_own_line_is_before_her():
    lines = script((None, "她跑进来，说："), ("她", "早！"), (None, "又说："), ("她", "走！"))
    (turns,), tally = dialogues_of([replace(line, line=1) for line in lines])
    assert turns == [("他", "她跑进来，说："), ("她", "早！/走！")]
    assert tally.used == 4


@pytest.mark.parametrize("before", [[], [("他", "早。"), ("她", "早！")]])
def test_the_last_of_a_long_narration_is_what_she_opens_with(before):
    told = [(None, f"第{number}天。") for number in range(1, 11)]
    found, tally = dialogues_of(script(*before, *told, ("她", "你来了！")))
    assert found[-1] == [("他", "/".join(f"第{number}天。" for number in range(3, 11))), ("她", "你来了！")]
    assert tally.left_out == {"narration_outside_dialogues": 2}


def test_without_any_gap_allowed_no_narration_is_carried_over_it():
    _, tally = dialogues_of(script((None, "天亮了。"), ("她", "早！")), replace(PARAMS, narration_gap=0))
    assert tally.left_out == {"narration_outside_dialogues": 1, "opens_without_prompt": 1}


def test_a_reply_never_sees_narration_that_came_after_it():
    found, _ = dialogues_of(script(("她", "早！"), (None, "后来。"), ("他", "嗯。"), ("她", "走！")))
    assert ("她", "早！") not in [turn for turns in found for turn in turns]


def test_a_third_speaker_ends_the_dialogue():
    lines = script(("他", "早。"), ("她", "早！"), ("猫", "喵。"), ("他", "嗯。"), ("她", "走！"))
    found, tally = dialogues_of(lines)
    assert found == [[("他", "早。"), ("她", "早！")], [("他", "嗯。"), ("她", "走！")]]
    assert tally.left_out == {"third_speaker": 1}


def test_a_third_speaker_may_be_kept_as_context():
    lines = script(("他", "早。"), ("猫", "喵。"), ("她", "走！"))
    tally = Tally()
    params = replace(PARAMS, third_speaker="keep_as_context")
    (turns,) = pair(next(split_scenes(lines, params)), params, tally)
    assert [piece.text for piece in turns[1].context] == ["猫：喵。"]
    assert tally.used == 3


def test_someone_unknown_who_speaks_is_a_third_speaker():
    lines = script(("他", "早。"), (None, "今天谁去？", "speech"), (None, "海鸥飞过。"), ("她", "我去！"))
    found, tally = dialogues_of(lines)
    assert found == [[("他", "海鸥飞过。"), ("她", "我去！")]]
    assert tally.left_out == {"unanswered": 1, "third_speaker": 1}
    ((_, reply),) = (
        turns
        for scene in split_scenes(lines, PARAMS)
        for turns in pair(scene, replace(PARAMS, third_speaker="keep_as_context"), Tally())
    )
    assert [piece.text for piece in reply.context] == ["？：今天谁去？", "海鸥飞过。"]


def test_a_planted_third_speaker_lowers_the_adjacent_turns_by_one():
    plain = script(("他", "一"), ("她", "二"), ("他", "三"), ("她", "四"))
    planted = script(("他", "一"), ("她", "二"), ("猫", "喵"), ("他", "三"), ("她", "四"))
    assert adjacent(planted) == adjacent(plain) - 1


def test_a_planted_scene_border_lowers_the_adjacent_turns_by_one():
    plain = script(("他", "一"), ("她", "二"), ("他", "三"), ("她", "四"))
    assert adjacent([replace(line, scene="二") if line.line > 2 else line for line in plain]) == adjacent(plain) - 1


def adjacent(lines: list[Line]) -> int:
    return sum(len(turns) - 1 for turns in dialogues_of(lines)[0])


def test_a_choice_ends_the_dialogue():
    found, tally = dialogues_of(
        script(("他", "早。"), ("她", "早！"), (None, "去海边", "choice"), ("他", "嗯。"), ("她", "走！"))
    )
    assert [len(turns) for turns in found] == [2, 2]
    assert tally.left_out == {"choice": 1}


def test_too_much_narration_ends_the_dialogue():
    gap = [(None, "。")] * 9
    found, _ = dialogues_of(script(("他", "早。"), ("她", "早！"), *gap, ("他", "嗯。"), ("她", "走！")))
    assert len(found) == 2


@pytest.mark.parametrize("date", ["24/04/14", "××/××/××", "3月24日", "7/21", " 3月24日（土）", "13.04.2024"])
def test_scenes_of_a_text_without_any_are_made_at_dates(date):
    told = script((None, "24/04/13"), ("他", "早。"), ("她", "7/21"), (None, date), ("他", "嗯。"), ("她", "走！"))
    lines = [replace(line, scene="") for line in told]
    assert [(scene.cut_at, len(scene.lines)) for scene in split_scenes(lines, PARAMS)] == [("date", 3), ("block", 3)]


def test_scenes_of_a_text_without_any_are_made_at_long_narration():
    talk = [("他", "早。"), ("她", "早！")] * 20
    lines = [replace(line, scene="") for line in script(*talk, *[(None, "。")] * 6, *talk)]
    assert [len(scene.lines) for scene in split_scenes(lines, PARAMS)] == [40, 46]


def talk(count: int, scene: str) -> list[Line]:
    rng = Random(count)
    texts = ("".join(chr(rng.randint(0x4E00, 0x9FA5)) for _ in range(12)) for _ in range(count))
    return script(*[("他她"[number % 2], text) for number, text in enumerate(texts)], scene=scene)


def test_a_script_that_is_one_long_scene_of_its_own_is_cut_and_has_every_split():
    planned = plan(talk(800, "第一章 相遇"), PARAMS)
    assert {row.scene.name for row in planned} == {"第一章 相遇"}
    assert {row.scene.cut_at for row in planned} == {"block"} and len(planned) == 10
    dialogues, _ = build_dialogues(planned, PARAMS)
    assert {dialogue.split for dialogue in dialogues} == {"train", "validation", "test"}


def test_a_scene_of_the_format_stays_whole_up_to_four_times_scene_lines():
    assert [scene.cut_at for scene in split_scenes(talk(160, "一"), PARAMS)] == ["format"]
    assert len(list(split_scenes(talk(161, "一"), PARAMS))) > 1


SPEAKERS = st.sampled_from(["她", "他", "猫", None])
LINES = st.lists(
    st.tuples(SPEAKERS, st.text("早晚走吃", min_size=1, max_size=4), st.sampled_from(["speech"] * 9 + ["choice"])),
    max_size=80,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["talk", "narration"]), st.integers(1, 60)), max_size=12))
def test_made_scenes_hold_every_line_once_and_none_is_empty(runs):
    spoken = [("她" if kind == "talk" else None, "啊。") for kind, count in runs for _ in range(count)]
    lines = [replace(line, scene="") for line in script(*spoken)]
    scenes = [scene.lines for scene in split_scenes(lines, replace(PARAMS, scene_lines=10, scene_narration=4))]
    assert [line for scene in scenes for line in scene] == lines
    assert all(scenes)


@settings(max_examples=200, deadline=None)
@given(LINES, st.sampled_from(["cut", "keep_as_context"]))
def test_every_line_is_used_once_or_left_out_and_turns_alternate_in_order(rows, third_speaker):
    lines = [
        replace(line, kind="choice" if kind == "choice" else line.kind)
        for line, (_, _, kind) in zip(script(*[(s, t) for s, t, _ in rows]), rows, strict=True)
    ]
    params, tally = replace(PARAMS, third_speaker=third_speaker), Tally()
    used = Counter()
    for scene in split_scenes(lines, params):
        for turns in pair(scene, params, tally):
            assert [turn.speaker for turn in turns] == ["他", "她"] * (len(turns) // 2)
            last = 0
            for turn in turns:
                spoken = [piece.line for piece in turn.lines]
                narration = [piece.line for piece in turn.context]
                assert spoken == sorted(spoken) and narration == sorted(narration)
                assert min(spoken + narration) > last, "a turn stands after all that came before it"
                last = max(spoken)
                used.update(spoken + narration)
    assert not used or max(used.values()) == 1
    assert tally.used == len(used)
    assert tally.used + tally.left_out.total() == len(lines)


def scenes_script(files: dict[str, int]) -> list[Line]:
    lines = []
    for file, count in sorted(files.items()):
        rng = Random(file)
        for scene in range(count):
            for number in range(6):
                text = "".join(chr(rng.randint(0x4E00, 0x9FA5)) for _ in range(12))
                lines.append(Line(file, f"{scene}", scene * 6 + number + 1, "他她"[number % 2], text, "speech"))
    return lines


def test_the_split_of_a_file_does_not_change_when_other_files_come():
    alone = plan(scenes_script({"b.txt": 20}), PARAMS)
    among = plan(scenes_script({"a.txt": 9, "b.txt": 20, "c.txt": 30}), PARAMS)
    assert [row.split for row in alone] == [row.split for row in among if row.scene.file == "b.txt"]


def test_held_out_scenes_are_contiguous_blocks_of_the_asked_share():
    splits = assign_splits([row.scene for row in plan(scenes_script({"b.txt": 50}), PARAMS)], PARAMS)
    assert Counter(splits) == {"train": 40, "validation": 5, "test": 5}
    for split in ("validation", "test"):
        first = splits.index(split)
        assert splits[first : first + 5] == [split] * 5


def test_a_scene_copied_onto_another_route_never_stands_on_both_sides():
    lines = scenes_script({"b.txt": 20})
    held_out = next(row for row in plan(lines, PARAMS) if row.split == "test").scene
    copy = [replace(line, scene="copy", line=1000 + line.line) for line in held_out.lines]
    dialogues, _ = build_dialogues(plan(lines + copy, PARAMS), PARAMS)
    groups: dict[str, set[str]] = {}
    for dialogue in dialogues:
        groups.setdefault(dialogue.group, set()).add(dialogue.split)
    assert all(len(splits) == 1 for splits in groups.values())
    assert len({d.group for d in dialogues if d.scene in ("copy", held_out.name)}) == 1


@pytest.mark.parametrize("seed", range(8))
def test_a_passage_told_twice_in_a_text_without_scenes_is_never_on_both_sides(seed):
    lines, params = talk(4000, ""), replace(PARAMS, seed=seed)
    told = [*lines[:2037], *lines[400:800], *lines[2037:]]  # blocks of 80 lines, of which 37 and 43 are shared
    dialogues, _ = build_dialogues(plan([replace(line, line=n) for n, line in enumerate(told, 1)], params), params)
    said = {True: set(), False: set()}
    for dialogue in dialogues:
        said[dialogue.split == "train"] |= {piece.text for turn in dialogue.turns for piece in turn.lines}
    assert said[False] and not said[True] & said[False]
    assert all(dialogue.id.startswith(dialogue.group) for dialogue in dialogues), "no two scenes are near duplicates"


def test_short_lines_and_phrases_of_the_whole_script_join_no_scenes():
    hers = ["早。", "我可是高性能的机器人哦！"]
    lines = [replace(line, scene=str(n)) for n in range(9) for line in script(*[("她", text) for text in hers])]
    scenes = list(split_scenes(lines, PARAMS))
    assert unite_overlaps(scenes, list(range(9)), PARAMS) == list(range(9))
    assert unite_overlaps(scenes[:8], list(range(8)), PARAMS) == [0] * 8


def test_a_group_on_both_sides_goes_to_train():
    assert unite_groups(["train", "test", "test"], [0, 0, 2]) == ["train", "train", "test"]


def test_the_exam_holds_no_line_of_a_held_out_scene_among_the_train_lines():
    planned = plan(scenes_script({"b.txt": 20}), PARAMS)
    dialogues, _ = build_dialogues(planned, PARAMS)
    exam = list(build_exam(planned, dialogues, PARAMS))
    held_out = {p.text for d in dialogues if d.split != "train" for t in d.turns for p in t.lines}
    assert held_out and not held_out & {row["text"] for row in exam if row["part"] == "line"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"character": "谁"}, "`filter.character` is '谁', who says nothing"),
        ({"partner": "谁"}, "`filter.partner` is '谁', who says nothing"),
        ({"partner": "她"}, "both '她'"),
        ({"third_speaker": "keep"}, "expected cut or keep_as_context, got 'keep'"),
    ],
)
def test_wrong_leads_are_refused_with_the_cast(change, reason):
    with pytest.raises(InputError, match=reason):
        plan(scenes_script({"b.txt": 20}), replace(PARAMS, **change))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"scene_lines": 0}, "`filter.scene_lines`: expected 1 or more, got 0"),
        ({"scene_narration": -1}, "`filter.scene_narration`: expected 0 or more, got -1"),
        ({"narration_gap": -1}, "`filter.narration_gap`: expected 0 or more, got -1"),
        ({"min_turns": 0}, "`filter.min_turns`: expected 1 or more, got 0"),
        ({"exam_train_dialogues": -3}, "`filter.exam_train_dialogues`: expected 0 or more, got -3"),
        ({"near_duplicate": 5.0}, "`filter.near_duplicate`: expected above 0, 1 at most, got 5.0"),
        ({"near_duplicate": float("nan")}, "`filter.near_duplicate`: expected above 0, 1 at most, got nan"),
        ({"test_share": -1.0}, "`filter.test_share`: expected above 0, 1 at most, got -1.0"),
        ({"test_share": 2}, "`filter.test_share`: expected above 0, 1 at most, got 2"),
        (
            {"validation_share": 0.6, "test_share": 0.5},
            "expected less than 1 together, for train needs the rest; got 1.1",
        ),
    ],
)
def test_a_number_that_makes_no_sense_is_refused_with_its_key(change, reason):
    with pytest.raises(InputError) as error:
        plan(scenes_script({"b.txt": 20}), replace(PARAMS, **change))
    assert str(error.value).startswith("params.yaml: ") and reason in str(error.value)


def test_an_empty_script_is_refused():
    with pytest.raises(InputError, match="expected lines, got none"):
        plan([], PARAMS)


def test_a_script_too_short_for_a_held_out_split_is_refused_with_the_cure():
    with pytest.raises(InputError, match="need dialogues in every split"):
        build_dialogues(plan(scenes_script({"b.txt": 1}), PARAMS), PARAMS)


def refusal(lines: list[Line]) -> str:
    with pytest.raises(InputError, match="need dialogues in every split") as error:
        build_dialogues(plan(lines, PARAMS), PARAMS)
    return str(error.value)


def test_a_script_whose_scenes_are_all_one_names_near_duplicate_as_the_cause():
    lines = [replace(line, text=f"这一句每一场都一样。{line.line % 6}") for line in scenes_script({"b.txt": 20})]
    assert "20 scenes with dialogues make 1 of near duplicates: a `filter.near_duplicate` above 0.5" in refusal(lines)
    assert "near_duplicate" not in refusal(scenes_script({"b.txt": 1}))


def test_a_script_cut_to_pieces_by_others_names_third_speaker_as_the_cause():
    lines = script(*[("他", "早。"), ("她", "早！"), ("猫", "喵。")] * 2)
    assert "2 lines of others end dialogues: `filter.third_speaker: keep_as_context`" in refusal(lines)
    assert "third_speaker" not in refusal(scenes_script({"b.txt": 1}))


def test_long_english_labels_that_have_nothing_in_common_stay_apart():
    rng = Random(3)
    words = [
        f"{a}{b}{c}"
        for a in ("b", "st", "m", "r")
        for b in ("a", "ea", "o", "i")
        for c in ("n", "ll", "rt", "st", "ke")
    ]
    talk = [(f"s{i // 80}", "他她"[i % 2], " ".join(rng.choices(words, k=12))) for i in range(80 * 40)]
    lines = [Line("a.rpy", name, i, speaker, text, "speech") for i, (name, speaker, text) in enumerate(talk, 1)]
    dialogues, _ = build_dialogues(plan(lines, PARAMS), PARAMS)
    assert len({dialogue.group for dialogue in dialogues}) == 40
