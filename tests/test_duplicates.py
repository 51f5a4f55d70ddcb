"""Near duplicates against brute force, by law and on lines with planted copies."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.duplicates import GRAM, gram_hashes, grams, jaccard, minhash, near_duplicate_groups, signs, similar_pairs

TEXTS = st.lists(st.text("早晚走吃海灯", max_size=8), max_size=12)


def brute_force(texts: list[str], threshold: float) -> list[int]:
    """The same groups by comparing every pair."""
    parent = list(range(len(texts)))
    for b in range(len(texts)):
        for a in range(b):
            if texts[a] and texts[b] and jaccard(texts[a], texts[b]) >= threshold:
                roots = {parent[a], parent[b]}
                parent = [min(roots) if root in roots else root for root in parent]
    return parent


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.sampled_from([0.8, 1.0]))
def test_groups_of_very_similar_texts_are_those_of_brute_force(texts, threshold):
    assert near_duplicate_groups(texts, threshold) == brute_force(texts, threshold)


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_a_group_is_named_by_its_first_text_and_an_empty_text_is_alone(texts):
    groups = near_duplicate_groups(texts, 0.5)
    for index, group in enumerate(groups):
        assert group <= index and groups[group] == group
        assert texts[index] or group == index


@settings(max_examples=100, deadline=None)
@given(TEXTS)
def test_what_is_kept_has_no_duplicates_left(texts):
    groups = near_duplicate_groups(texts, 0.8)
    kept = [text for index, text in enumerate(texts) if groups[index] == index]
    assert near_duplicate_groups(kept, 0.8) == list(range(len(kept)))


def planted(count: int, copies: int, rng: random.Random) -> list[str]:
    """Random lines, and copies of some of them with one character changed."""
    line = lambda: "".join(chr(rng.randint(0x4E00, 0x5200)) for _ in range(rng.randint(12, 30)))  # noqa: E731
    lines = [line() for _ in range(count)]
    for text in rng.sample(lines, copies):
        place = rng.randrange(len(text))
        lines.append(text[:place] + "改" + text[place + 1 :])
    return lines


def test_at_least_98_of_100_duplicate_lines_are_found():
    texts = planted(900, 300, random.Random(1))
    expected = {i for i, group in enumerate(brute_force(texts, 0.6)) if group != i}
    found = {i for i, group in enumerate(near_duplicate_groups(texts, 0.6)) if group != i}
    assert len(expected) > 200
    assert len(found & expected) >= 0.98 * len(expected)
    assert found <= expected, "every pair is checked by its true similarity"


def test_every_pair_reaches_the_threshold_and_comes_once():
    texts = planted(200, 100, random.Random(2))
    pairs = list(similar_pairs(texts, 0.6))
    assert pairs and len({frozenset(pair) for pair in pairs}) == len(pairs)
    assert all(jaccard(texts[a], texts[b]) >= 0.6 for a, b in pairs)


def test_the_share_of_equal_signature_values_estimates_the_similarity():
    a, b = "灯塔守则第一条，无论如何不许熄灯，绝对不许！", "灯塔守则第一条，无论如何不许熄灯，好不好？"
    signature = minhash([a, b])
    assert np.mean(signature[0] == signature[1]) == pytest.approx(jaccard(a, b), abs=0.2)


def test_signatures_do_not_depend_on_the_neighbours():
    texts = planted(50, 0, random.Random(3))
    assert (minhash(texts)[7] == minhash(texts[7:8])[0]).all()


def test_a_text_shorter_than_a_gram_is_its_own_gram():
    assert grams("早") == {"早"}
    assert near_duplicate_groups(["早", "早安", "早"], 0.9) == [0, 1, 0]


def test_hashes_are_counted_per_text():
    hashes, starts = gram_hashes(["早上好啊", "早", "早上好"])
    assert len(hashes) == (4 - GRAM + 1) + 1 + 1
    assert list(starts) == [0, 2, 3]
    assert hashes[0] == hashes[3]


def test_nothing_in_is_nothing_out():
    assert near_duplicate_groups([], 0.5) == []
    assert near_duplicate_groups(["", ""], 0.5) == [0, 1]


# --- texts written in words

ENGLISH = """
the and a to of in it you i was that he she is not on for with but his her they at as have this my be had me we all one
what there so when if do from out up could would them then who just like no know about over back into down can time said
think see light keeper island storm water boat lamp winter letter night morning window table kitchen garden harbour
stone wall door brother sister father mother captain doctor child summer river bridge mountain village church school
teacher book page paper pencil music piano song dance bread butter apple cheese coffee sugar salt pepper knife spoon
plate bottle glass mirror chair carpet candle shadow silver golden purple yellow heavy gentle broken quiet distant
careful strange familiar narrow empty bright hungry thirsty tired angry happy lonely brave foolish clever ancient modern
remember forget promise whisper shout laugh weep travel gather follow listen answer believe wonder imagine discover
build carry climb throw catch bring leave arrive return begin finish open close break mend paint write read learn teach
sell buy steal hide seek find lose win fight rest sleep wake dream fall rise grow shrink burn freeze melt float sink
yesterday tomorrow always never sometimes perhaps almost nearly already still again together alone beside beneath behind
between against through across among without within during before after until because although however therefore
"""
RUSSIAN = """
и в не на я быть он с что а по это она этот к но они мы весь который из у свой вы за для от так о же ты все год человек
маяк остров буря вода лодка лампа зима письмо ночь утро окно стол кухня сад гавань камень стена дверь брат сестра отец
мать капитан доктор ребёнок лето река мост гора деревня церковь школа учитель книга страница бумага карандаш музыка
"""


def scene(words: str, seed: int, length: int) -> str:
    """Sentences of words drawn as in a language: the first of the list are the most frequent."""
    rng, known = random.Random(seed), words.split()
    drawn = rng.choices(known, [1 / (rank + 3) for rank in range(len(known))], k=length)
    return " ".join(word if rng.random() > 0.12 else f"{word.capitalize()}." for word in drawn)


def changed(text: str, share: float, rng: random.Random) -> str:
    """The text with a share of its words replaced."""
    return " ".join("lighthouse" if rng.random() < share else word for word in text.split(" "))


@pytest.mark.parametrize("words", [ENGLISH, RUSSIAN], ids=["Latin", "Cyrillic"])
def test_long_scenes_that_share_but_the_alphabet_are_no_duplicates(words):
    scenes = [scene(words, seed, 4000) for seed in range(12)]
    assert min(jaccard(scenes[0], other) for other in scenes[1:]) > 0.5, "by characters they would be one scene"
    assert near_duplicate_groups(scenes, 0.5) == list(range(12))


def test_a_scene_with_one_word_in_ten_changed_is_the_same_scene():
    rng = random.Random(5)
    scenes = [scene(ENGLISH, seed, 600) for seed in range(12)]
    assert near_duplicate_groups([*scenes, *(changed(text, 0.1, rng) for text in scenes)], 0.5) == [*range(12)] * 2


def test_a_text_written_in_words_is_compared_by_them_apart_from_case_and_marks():
    assert signs("Where are you, then?") == signs("where are YOU then")
    assert len(signs("Where are you, then?")) == 4
    assert near_duplicate_groups(["Good morning, Tom.", "Good morning Tom!", "Good evening, Tom."], 0.9) == [0, 0, 2]


@pytest.mark.parametrize(
    "text", ["你 好 吗，夏 生", "ATRI 说：我是高性能的机器人！", "澪 は 走る。", "", "早", "goodmorningtom", "..."]
)
def test_a_text_that_is_not_written_in_words_is_compared_by_its_characters(text):
    assert signs(text) is text
