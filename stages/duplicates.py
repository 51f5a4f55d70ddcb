"""Texts in, groups of near-duplicate texts out: MinHash over 3-grams, each pair checked by its true Jaccard.

The grams are of characters, or of words where a text is written in words between spaces: an alphabet has so few letters
that two long texts of it share half of their character 3-grams, whatever they say.

Broder, "On the resemblance and containment of documents" (1997); banding as in Leskovec et al., "Mining of Massive
Datasets", chapter 3. 20 bands of 3 rows find a pair of Jaccard 0.7 with probability 0.9998, one of 0.5 with 0.93.
"""

import re
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

GRAM = 3
BANDS, ROWS = 20, 3
CHUNK = 50_000
LETTERS = re.compile("[A-Za-zÀ-ۿḀ-῿]")  # of the alphabets, from Latin to Arabic
WORDS = re.compile(r"\w+")
LONGEST_WORD = 12  # characters with its space, on average; German and Russian have 7
SIGNS = 0x30000, 0x110000 - 0x30000  # code points that no text has, and how many
WEIGHTS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], dtype=np.uint64)


def near_duplicate_groups(texts: Sequence[str], threshold: float) -> list[int]:
    """For each text the index of the first text of its group; an empty text is always alone."""
    first_of: dict[str, int] = {}
    parent = [first_of.setdefault(text, index) if text else index for index, text in enumerate(texts)]
    unique = [index for index, text in enumerate(texts) if text and parent[index] == index]
    for a, b in similar_pairs([signs(texts[index]) for index in unique], threshold):
        unite(parent, unique[a], unique[b])
    return [find(parent, index) for index in range(len(texts))]


def signs(text: str) -> str:
    """The text by whose 3-characters it is compared: itself, or one character a word where it is written in words."""
    if text.count(" ") * LONGEST_WORD < len(text) or len(LETTERS.findall(text)) * 2 < len(text):
        return text
    first, count = SIGNS
    words = WORDS.findall(text.lower())
    return "".join(chr(first + zlib.crc32(word.encode("utf-8", "surrogatepass")) % count) for word in words) or text


def similar_pairs(texts: Sequence[str], threshold: float) -> Iterator[tuple[int, int]]:
    """Pairs of indices whose Jaccard similarity of 3-grams reaches the threshold, each once."""
    seen: set[tuple[int, int]] = set()
    signatures = minhash(texts)
    for band in range(BANDS):
        for pair in same_key(signatures[:, band * ROWS : (band + 1) * ROWS]):
            if pair not in seen:
                seen.add(pair)
                if jaccard(texts[pair[0]], texts[pair[1]]) >= threshold:
                    yield pair


def minhash(texts: Sequence[str]) -> np.ndarray:
    """Signatures, uint32 of shape (len(texts), BANDS * ROWS)."""
    rng = np.random.Generator(np.random.PCG64(1))
    multipliers = rng.integers(1, 2**63, BANDS * ROWS, dtype=np.uint64) | np.uint64(1)
    signatures = np.empty((len(texts), BANDS * ROWS), dtype=np.uint32)
    for start in range(0, len(texts), CHUNK):
        grams, starts = gram_hashes(texts[start : start + CHUNK])
        for k, multiplier in enumerate(multipliers):
            mixed = ((grams * multiplier) >> np.uint64(32)).astype(np.uint32)
            signatures[start : start + len(starts), k] = np.minimum.reduceat(mixed, starts)
    return signatures


def gram_hashes(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The 64-bit hashes of all 3-grams of the texts in a row, and where each text's begin; a short text is padded."""
    padded = [text.ljust(GRAM, "\0") for text in texts]
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    lengths = np.array([len(text) for text in padded])
    ends = np.cumsum(lengths)
    windows = codes[:-2] * WEIGHTS[0] + codes[1:-1] * WEIGHTS[1] + codes[2:] * WEIGHTS[2]
    windows ^= windows >> np.uint64(29)
    inside = np.ones(len(windows), dtype=bool)
    for back in (1, 2):
        inside[(ends[:-1] - back)] = False
    return windows[inside], np.concatenate(([0], np.cumsum(lengths - GRAM + 1)[:-1]))


def same_key(rows: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs of texts that agree in one band: each with the one before it and with the first of its run."""
    key = (
        rows[:, 0].astype(np.uint64) * WEIGHTS[0] ^ rows[:, 1].astype(np.uint64) * WEIGHTS[1] ^ rows[:, 2] * WEIGHTS[2]
    )
    order = np.argsort(key, kind="stable")
    equal = key[order[1:]] == key[order[:-1]]
    first = 0
    for position in np.flatnonzero(equal):
        if position == 0 or not equal[position - 1]:
            first = int(order[position])
        previous, current = int(order[position]), int(order[position + 1])
        yield previous, current
        if first != previous:
            yield first, current


def jaccard(a: str, b: str) -> float:
    """Shared 3-grams over all 3-grams of the two texts."""
    grams_a, grams_b = grams(a), grams(b)
    return len(grams_a & grams_b) / len(grams_a | grams_b)


def grams(text: str) -> set[str]:
    """The character 3-grams of a text; a shorter text is its own."""
    return {text[i : i + GRAM] for i in range(len(text) - GRAM + 1)} or {text}


def find(parent: list[int], index: int) -> int:
    """The root of an index, its path halved on the way."""
    while parent[index] != index:
        parent[index] = parent[parent[index]]
        index = parent[index]
    return index


def unite(parent: list[int], a: int, b: int) -> None:
    """Join two groups under the smaller root."""
    a, b = find(parent, a), find(parent, b)
    parent[max(a, b)] = min(a, b)
