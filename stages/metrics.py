"""Replies in, numbers out: loops, repetition, diversity, length and fillers.

Every function takes plain strings and is defined in characters, so that models with different tokenizers compare.
"""

import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from math import exp, log

import numpy as np
import regex

LOOP = re.compile(r"(.{1,12}?)\1{3,}", re.DOTALL)
# Vocal fillers of Chinese, Japanese and English, with any marks; not the list by which the text is cleaned.
FILLER_WORD = (
    r"[嗯啊呃唔哦噢喔诶欸哎唉呜哈嘿哼咦呀额嘻呵うんえーあぁおっッふむはへ]|(?i:\b(?:u+h+|u+m+|h+m+|e+r+m?|a+h+|o+h+)\b)"
)
FILLER_ONLY = regex.compile(rf"(?:{FILLER_WORD}|[\p{{P}}\p{{S}}\s])+")
NGRAM = 4
MOSTLY_REPEATED = 0.5  # of a reply's n-grams; of the sample's spoken lines of a dozen characters none has 0.44

Span = tuple[int, int]


def length(text: str) -> int:
    """Characters after whitespace is stripped from both ends."""
    return len(text.strip())


def loop_spans(text: str) -> list[Span]:
    """Where one to twelve characters stand four times or more in a row."""
    return [match.span() for match in LOOP.finditer(text)]


def filler_spans(text: str) -> list[Span]:
    """The whole reply, if it is made only of fillers and marks; an empty reply is not."""
    return [(0, len(text))] if FILLER_ONLY.fullmatch(text) and text.strip() else []


def ngrams(text: str, n: int) -> list[str]:
    """The character n-grams of a text, whitespace left out."""
    text = "".join(text.split())
    return [text[i : i + n] for i in range(len(text) - n + 1)]


def repetition(text: str, n: int = NGRAM) -> float:
    """rep-n (Welleck et al. 2019): 1 - unique / total n-grams of one reply; 0 where it is too short to repeat."""
    grams = ngrams(text, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def is_answer(text: str) -> bool:
    """Whether a reply says something: more than fillers and marks, and most of it only once."""
    return bool(text.strip()) and not filler_spans(text) and repetition(text) < MOSTLY_REPEATED


def distinct(replies: Iterable[str], n: int, budget: int) -> float | None:
    """distinct-n (Li et al. 2016): unique / total n-grams of the first `budget` characters of the replies in a row."""
    grams: list[str] = []
    for reply in replies:
        reply = "".join(reply.split())[:budget]
        budget -= len(reply)
        grams += ngrams(reply, n)
    return len(set(grams)) / len(grams) if grams else None


def shuffled(replies: Sequence[str], seed: int) -> list[str]:
    """A seeded order, so that a budget cuts no scene short on purpose."""
    return random.Random(seed).sample(list(replies), len(replies))


def characters(replies: Iterable[str]) -> int:
    """All characters, whitespace left out: the budget that distinct-n can spend."""
    return sum(len("".join(reply.split())) for reply in replies)


def self_bleu(replies: Sequence[str]) -> float | None:
    """Self-BLEU (Zhu et al. 2018): the mean BLEU-4 of a reply against all others, in characters; 1: all the same.

    A missing n-gram counts 0.1 (Chen and Cherry 2014, method 1); a reply shorter than 4 characters uses its own length.
    """
    texts = ["".join(reply.split()) for reply in replies]
    texts = [text for text in texts if text]
    if len(texts) < 2:
        return None
    counts = [[Counter(ngrams(text, n)) for text in texts] for n in range(1, NGRAM + 1)]
    best = [_two_highest(of_n) for of_n in counts]
    lengths = Counter(map(len, texts))
    return sum(_bleu(text, i, [of_n[i] for of_n in counts], best, lengths) for i, text in enumerate(texts)) / len(texts)


Highest = dict[str, tuple[int, int, int]]


def _two_highest(counts: list[Counter[str]]) -> Highest:
    """For each n-gram its highest count, whose that is, and the highest count of anybody else."""
    best: Highest = {}
    for owner, of_text in enumerate(counts):
        for gram, count in of_text.items():
            first, whose, second = best.get(gram, (0, -1, 0))
            best[gram] = (count, owner, first) if count > first else (first, whose, max(second, count))
    return best


def _bleu(text: str, owner: int, counts: list[Counter[str]], best: list[Highest], lengths: Counter[int]) -> float:
    logs = []
    for of_n, highest in zip(counts[: len(text)], best, strict=False):
        found = 0
        for gram, count in of_n.items():
            first, whose, second = highest[gram]
            found += min(count, second if whose == owner else first)
        logs.append(log((found or 0.1) / of_n.total()))
    others = [size for size, count in lengths.items() if size != len(text) or count > 1]
    closest = min(others, key=lambda size: (abs(size - len(text)), size))
    return min(1.0, exp(1 - closest / len(text))) * exp(sum(logs) / len(logs))


def wasserstein(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Wasserstein-1 distance of two samples: the area between their distribution functions, in their own unit."""
    if not one or not other:
        return None
    points = np.sort(np.concatenate([one, other]).astype(float))
    shares = [np.searchsorted(np.sort(sample), points[:-1], side="right") / len(sample) for sample in (one, other)]
    return float(np.sum(np.abs(shares[0] - shares[1]) * np.diff(points)))


def quantile(values: Sequence[float], share: float) -> float:
    """The linear-interpolated quantile; 0 for no values."""
    return float(np.quantile(values, share)) if len(values) else 0.0


def mean(values: Iterable[float]) -> float | None:
    """The arithmetic mean, None of nothing."""
    values = list(values)
    return sum(values) / len(values) if values else None
