"""Near duplicates against brute force, by law and on lines with planted copies."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.duplicates import GRAM, gram_hashes, grams, jaccard, minhash, near_duplicate_groups, similar_pairs

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
