"""processed/exam.jsonl in; its turns, its raw lines, and what is asked of a model about them out."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from stages.conversation import IGNORE, Message, bare, common_start, encode, encode_supervised, label_ids, neutralise
from stages.messages import Card, to_messages
from stages.metrics import length
from stages.probes import Probe
from stages.records import Dialogue, InputError, Piece, dialogue_from, read_jsonl
from stages.rules import RULES, is_filler
from stages.scoring import Branch, Tree
from stages.script_rules import FOREIGN, language
from stages.voice import bucket

BOTH = ("base", "adapter")  # who is asked
HERS, HIS, OTHERS = "hers", "his", "others"
POOLS = (HERS, HIS, OTHERS)  # whose lines stand beside the gold reply
OF_EACH = 3
DISTRACTORS = OF_EACH * len(POOLS)
LIMIT = 2048  # tokens: a longer dialogue is scored in windows that overlap by half
OTHER_WORDS = "＃"


class Said(NamedTuple):
    """One turn of a dialogue: `place` is its message, `core` whether no cleaning rule would touch it."""

    dialogue: str
    scene: str
    split: str
    place: int
    who: str
    text: str
    core: bool


class Asked(NamedTuple):
    """Where a turn stands in a sheet's tokens: [start, stop), its end token last (hers only)."""

    said: Said
    start: int
    stop: int


@dataclass(frozen=True)
class Sheet:
    """A dialogue, or a window of a long one, as the tokens that training sees."""

    ids: list[int]
    labels: list[int]
    asked: list[Asked]


@dataclass(frozen=True)
class Exam:
    """The frozen dialogues, the raw train lines `(speaker, text)`, and the file's SHA-256."""

    dialogues: list[Dialogue]
    lines: list[tuple[str, str]]
    sha256: str

    def of(self, split: str) -> list[Dialogue]:
        """The dialogues of a split."""
        return [dialogue for dialogue in self.dialogues if dialogue.split == split]

    def lines_of(self, *speakers: str) -> list[str]:
        """The raw train lines of some speakers."""
        return [text for speaker, text in self.lines if speaker in speakers]


# --- reading


def read_exam(path: Path) -> Exam:
    """The whole exam; raises InputError if it holds no test dialogue."""
    dialogues, lines = [], []
    for row in read_jsonl(path):
        part = row.pop("part")
        if part == "dialogue":
            dialogues.append(dialogue_from(row, path))
        else:
            lines.append((row["speaker"], row["text"]))
    exam = Exam(dialogues, lines, sha256(path.read_bytes()).hexdigest())
    if not exam.of("test"):
        raise InputError(f"{path}: expected dialogues of the test split, found none\nhint: `filter.test_share`")
    return exam


def core_rule(lines: Iterable[str]) -> Callable[[str], bool]:
    """Whether no cleaning rule on form, filler or language would touch a line; these lines tell the language.

    Of a language that we do not know no line is foreign.
    """
    foreign = FOREIGN.get(language(lines), lambda text: False)

    def untouched(text: str) -> bool:
        return all(rule(text) == text for rule in RULES.values()) and not is_filler(text) and not foreign(text)

    return untouched


def turns(dialogue: Dialogue, card: Card, core: Callable[[str], bool]) -> list[Said]:
    """What the two leads say, place by place; a turn of narration alone is nobody's speech."""
    found = []
    for place, turn in enumerate(dialogue.turns, 1):
        spoken: list[Piece] = [piece for piece in turn.lines if piece.kind != "narration"]
        if spoken:
            who = HERS if turn.speaker == card.character else HIS
            text = "\n".join(piece.text for piece in spoken)
            untouched = all(core(piece.text) for piece in spoken)
            found.append(Said(dialogue.id, dialogue.scene_id, dialogue.split, place, who, text, untouched))
    return found


# --- dialogues as tokens


def sheets(tokenizer: Any, dialogue: Dialogue, card: Card, core: Callable[[str], bool]) -> Iterator[Sheet]:
    """The dialogue's tokens with every turn's place in them, in windows of at most `LIMIT` tokens."""
    messages = to_messages(dialogue, card)
    said = {turn.place: turn for turn in turns(dialogue, card, core)}
    ends = [stop for _, stop in _runs(encode_supervised(tokenizer, bare(messages))[1])]
    for first, fresh, last in windows(ends, LIMIT):
        part = messages[:1] + messages[1 + 2 * first : 1 + 2 * last]
        shift = 2 * first
        wanted = {place - shift: turn for place, turn in said.items() if 1 + 2 * fresh <= place < 1 + 2 * last}
        yield sheet(tokenizer, part, wanted)


def windows(ends: Sequence[int], limit: int) -> list[tuple[int, int, int]]:
    """Ranges of rounds (first, fresh, last) that fit into `limit` tokens and score each round once.

    `ends` are the tokens up to the end of each round; rounds from `first` to `fresh` are context, up to half the limit.
    """
    starts = [0, *ends]
    found, fresh = [], 0
    while fresh < len(ends):
        first = fresh
        while first > 0 and starts[fresh] - starts[first - 1] <= limit // 2:
            first -= 1
        last = fresh + 1
        while last < len(ends) and ends[last] - starts[first] <= limit:
            last += 1
        found.append((first, fresh, last))
        fresh = last
    return found


def sheet(tokenizer: Any, messages: Sequence[Message], wanted: dict[int, Said]) -> Sheet:
    """The tokens of some messages, labels on her wanted turns, and where each wanted turn stands."""
    ids, supervised = encode_supervised(tokenizer, bare(messages))
    labels = label_ids(tokenizer, ids, supervised)
    hers = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    asked = []
    for place, (start, stop) in zip(hers, _runs(supervised), strict=True):
        if place in wanted:
            asked.append(Asked(wanted[place], start, stop))
        else:
            labels[start:stop] = [IGNORE] * (stop - start)
    his = [(place, said) for place, said in wanted.items() if said.who == HIS]
    asked += [Asked(said, *_span(tokenizer, messages, place, said.text)) for place, said in his]
    return Sheet(ids, labels, sorted(asked, key=lambda one: one.start))


def _runs(supervised: Sequence[bool]) -> list[tuple[int, int]]:
    """The stretches of supervised tokens: one a reply, its end token last."""
    edges = [i for i in range(len(supervised) + 1) if _at(supervised, i) != _at(supervised, i - 1)]
    return list(zip(edges[::2], edges[1::2], strict=True))


def _at(flags: Sequence[bool], index: int) -> bool:
    return 0 <= index < len(flags) and flags[index]


def _span(tokenizer: Any, messages: Sequence[Message], place: int, text: str) -> tuple[int, int]:
    """The tokens of his words, found by putting other words in their place."""
    content = _replaced(messages[place]["content"], neutralise(text))
    changed = [*messages[:place], {**messages[place], "content": content}, *messages[place + 1 :]]
    ids, others = (encode_supervised(tokenizer, bare(each))[0] for each in (messages, changed))
    start = common_start((ids, others))
    return start, max(start + 1, len(ids) - common_start((ids[:start:-1], others[:start:-1])))


def _replaced(content: str, text: str) -> str:
    """Other words in the place of these, whole lines; stage directions may stand before them and after."""
    lines, words = content.split("\n"), text.split("\n")
    at = max(i for i in range(len(lines)) if lines[i : i + len(words)] == words)
    return "\n".join([*lines[:at], OTHER_WORDS, *lines[at + len(words) :]])


def reply_ids(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a reply as they stand in a dialogue, without the end token."""
    messages = [{"role": "user", "content": OTHER_WORDS}, {"role": "assistant", "content": text}]
    ids, supervised = encode_supervised(tokenizer, messages)
    return [token for token, wanted in zip(ids, supervised, strict=True) if wanted][:-1]


# --- what is asked


class Elsewhere(NamedTuple):
    """A turn of hers in the place of another scene's: its answer is branch `branch` of sheet `sheet`."""

    said: Said
    sheet: int
    branch: int


class Lineup(NamedTuple):
    """A turn of hers among distractors: branches of its own sheet, from `first` on."""

    asked: Asked
    sheet: int
    first: int
    others: list[str]


def true_tree(of: Sheet, branches: Sequence[Branch] = ()) -> Tree:
    """Her turns in their own context (his too in the test split), and what else is asked within the same dialogue."""
    labels = list(of.labels)
    for said, start, stop in of.asked:
        if said.who == HIS and said.split == "test":
            labels[start:stop] = of.ids[start:stop]
    return Tree(of.ids, labels, branches)


def shuffled_pairs(all_sheets: Sequence[Sheet]) -> list[tuple[int, int]]:
    """Each test sheet with one of another scene: the next in order of length, so that contexts are of like size."""
    usable = [i for i, sheet in enumerate(all_sheets) if hers(sheet) and hers(sheet)[0].said.split == "test"]
    ordered = sorted(usable, key=lambda i: len(all_sheets[i].ids))
    pairs = []
    for rank, own in enumerate(ordered):
        around = ordered[rank + 1 :] + ordered[:rank]
        other = next((i for i in around if _scene(all_sheets[i]) != _scene(all_sheets[own])), None)
        if other is not None:
            pairs.append((own, other))
    return pairs


def put_elsewhere(own: Sheet, other: Sheet, sheet: int, branches: list[Branch]) -> Iterator[Elsewhere]:
    """Her turns of one dialogue, each in the place of one of the other: the first in the first's, and so on around."""
    places = [asked.start for asked in hers(other)]
    for number, (said, start, stop) in enumerate(hers(own)):
        branches.append(Branch(places[number % len(places)], own.ids[start:stop]))
        yield Elsewhere(said, sheet, len(branches) - 1)


def line_up(tokenizer: Any, asked: Asked, others: list[str], sheet: int, branches: list[Branch]) -> Lineup:
    """The distractors in the gold reply's place."""
    first = len(branches)
    branches += [Branch(asked.start, reply_ids(tokenizer, text)) for text in others]
    return Lineup(asked, sheet, first, others)


def hers(of: Sheet) -> list[Asked]:
    """Her turns of a sheet."""
    return [asked for asked in of.asked if asked.said.who == HERS]


def _scene(of: Sheet) -> str:
    return of.asked[0].said.scene


def distractors(exam: Exam, card: Card, said: Said, seed: int) -> list[str]:
    """`DISTRACTORS` raw train lines of the gold reply's length, as many of each pool, as far as they go."""
    rng = random.Random(f"{seed}/{said.dialogue}/{said.place}")
    size = bucket(length(said.text))
    fits = [
        (who, text) for who, text in dict.fromkeys(exam.lines) if bucket(length(text)) == size and text != said.text
    ]
    pools = {name: [] for name in POOLS}
    for who, text in fits:
        pools[{card.character: HERS, card.partner: HIS}.get(who, OTHERS)].append(text)
    chosen = [text for pool in pools.values() for text in rng.sample(pool, min(OF_EACH, len(pool)))]
    spare = [text for _, text in fits if text not in chosen]
    missing = DISTRACTORS - len(chosen)
    return chosen + rng.sample(spare, min(missing, len(spare)))


def choice_tree(tokenizer: Any, card: Card, probe: Probe) -> Tree:
    """What she might say of herself after a probe's first question, the right answer first."""
    question = min(probe.asks, key=len)[-1]
    messages = [system_message(card_for(probe, card)), {"role": "user", "content": question}]
    prompt = encode(tokenizer, messages, add_generation_prompt=True)
    branches = [Branch(len(prompt), reply_ids(tokenizer, text)) for text in (probe.right, *probe.wrong)]
    return Tree(prompt, [IGNORE] * len(prompt), branches)


def card_for(probe: Probe | None, card: Card) -> Card:
    """The card with the name of a probe's user, if that one has a name of its own."""
    return replace(card, user_name=probe.user_name) if probe and probe.user_name else card


def system_message(card: Card) -> Message:
    """The system turn, as a dialogue has it."""
    return to_messages(Dialogue("", "", "", "", "", ()), card)[0]
