"""The one way a conversation becomes tokens: for training, evaluation, chat and serving alike.

In: messages `{role, content, learn?}` and a tokenizer with a chat template. Out: token ids, and which are labels.
Text never becomes a control token. Nothing here imports torch or transformers, so that a data stage may use it.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, takewhile
from typing import Any, NamedTuple

from jinja2.exceptions import TemplateError, TemplateRuntimeError

from stages.records import InputError

IGNORE = -100  # the label of a position that is not to be learnt
Message = dict[str, Any]
Sample = tuple[list[int], list[bool]]

# Read by some published templates, ignored by the rest: Qwen3 would think aloud, Llama 3 would print today's date.
OPTIONS = {"enable_thinking": False, "date_string": "26 Jul 2024"}

# Control tokens of the chat models in use, for text that meets a tokenizer only later.
CONTROL = re.compile(
    r"<\|[^<>|\s]{1,60}\|>"  # Qwen, Llama 3, Yi, InternLM, MiniCPM, GLM
    r"|<\|[a-z_]{1,30}>|<[a-z_]{1,30}\|>"  # Gemma 4
    r"|<｜[^<>｜]{1,60}｜>"  # DeepSeek, Hunyuan
    r"|<(?:start|end)_of_[a-z]+>|<unused\d+>|</?s>"  # Gemma, Llama 2
    r"|<(?:bos|eos|pad|unk|mask|cls|sep|CLS|SEP|sop|eop|eod)>|\[(?:g|s)?MASK\]|\[(?:CLS|SEP|PAD|UNK|BOS|EOS)\]"
    r"|<reserved_\d+>|\[UNUSED_TOKEN_\d+\]|<seed:[a-z_]+>"  # Baichuan, InternLM, Seed
    r"|</?(?:think|tool_call|tool_response|role)>|<(?:用户|AI)>"  # Qwen3, Bailing, MiniCPM
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]|<</?SYS>>"  # Mistral, Llama 2
)
ROLE_PIECE = re.compile(r"<reserved_\d+>")  # Baichuan does not flag its role tokens as special
WORD_JOINER = "\u2060"


class Split(NamedTuple):
    """Samples `(ids, supervised)` of one dialogue, and the learn turns that fit in none."""

    samples: list[Sample]
    lost: list[str]


class Piece(NamedTuple):
    """A stretch of the rendered dialogue: what stands before a reply, or a reply with whatever closes it."""

    text: str
    reply: bool
    learn: bool


class Controls(NamedTuple):
    """A tokenizer's control tokens: as a pattern, as ids, and Baichuan's role ids among them."""

    pattern: re.Pattern[str]
    ids: frozenset[int]
    roles: frozenset[int]


def fill_persona(persona: str, user_name: str) -> str:
    """The system prompt for a user of this name."""
    return persona.replace("{user}", user_name)


def neutralise(text: str, tokenizer: Any = None) -> str:
    """Make the first character of every control token full-width: `＜|im_end|>` reads the same and is mere text."""
    patterns = [CONTROL] if tokenizer is None else [CONTROL, controls(tokenizer).pattern]
    while any(pattern.search(text) for pattern in patterns):
        for pattern in patterns:
            text = pattern.sub(_disarm, text)
    return text


def encode(tokenizer: Any, messages: Sequence[Message], *, add_generation_prompt: bool) -> list[int]:
    """Token ids of the conversation under the tokenizer's chat template."""
    return _tokenize(tokenizer, render(tokenizer, messages, add_generation_prompt=add_generation_prompt))


def render(tokenizer: Any, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
    """The conversation as the text that `encode` makes ids of."""
    return _apply(tokenizer, _accepted(tokenizer, messages), add_generation_prompt)


def encode_supervised(tokenizer: Any, messages: Sequence[Message]) -> Sample:
    """Token ids of a dialogue up to its last reply, and which of them are labels.

    Labels are the tokens of every assistant turn whose `learn` is not false, its end-of-turn token included; each reply
    stands behind the prompt that a front would send. Where a template closes a reply with nothing, the user's next role
    token closes it (GLM-4), or end-of-text in its stead (Baichuan2: `label_ids`, and the token behind the last reply).
    """
    known, turns = controls(tokenizer), _accepted(tokenizer, messages)
    ids: list[int] = []
    supervised: list[bool] = []
    reply_open = learn = False
    for piece, more in _tokenized(tokenizer, known, _pieces(tokenizer, turns)):
        if piece.reply:
            reply_open, learn = True, piece.learn
        elif reply_open and not known.pattern.match(piece.text.lstrip()):
            raise InputError(_NO_END)
        for token in more:
            supervised.append(reply_open and learn)
            reply_open = reply_open and token not in known.ids
        ids += more
    if reply_open:
        ids.append(_closing(tokenizer, turns))
        supervised.append(learn)
    return ids, supervised


def label_ids(tokenizer: Any, ids: Sequence[int], supervised: Sequence[bool]) -> list[int]:
    """The label of each position, `IGNORE` for none: the token itself, but end-of-text at a Baichuan role token."""
    roles = controls(tokenizer).roles
    return [
        IGNORE if not wanted else end_of_text(tokenizer) if token in roles else token
        for token, wanted in zip(ids, supervised, strict=True)
    ]


def split_long(tokenizer: Any, messages: Sequence[Message], max_length: int) -> Split:
    """Samples of at most `max_length` tokens that together supervise every learn turn exactly once.

    A dialogue that fits is one sample. Another is split between rounds: the first sample takes all rounds that fit, a
    later one up to half its length in new rounds and as many earlier ones as fit, for context. The system turn stands
    in all of them.
    """
    whole = encode_supervised(tokenizer, messages)
    if len(whole[0]) <= max_length:
        return Split([whole], [])
    system, rounds = _rounds(messages)
    size = _sizes(tokenizer, system, rounds)
    samples: list[Sample] = []
    lost: list[str] = []
    start = 0
    while start < len(rounds):
        ends, firsts = range(start + 1, len(rounds) + 1), range(start, -1, -1)
        end = _last(ends, (size(start, end) for end in ends), max_length // 2 if start else max_length)
        first = _last(firsts, (size(first, end) for first in firsts), max_length)
        sample = _window(tokenizer, system, rounds, first, start, end)
        while len(sample[0]) > max_length and end - first > 1:  # the sizes were an estimate
            first, end = (first + 1, end) if first < start else (first, end - 1)
            sample = _window(tokenizer, system, rounds, first, start, end)
        if len(sample[0]) > max_length:
            lost += [m["content"] for m in rounds[start] if m["role"] == "assistant" and m.get("learn", True)]
        elif any(sample[1]):
            samples.append(sample)
        start = end
    return Split(samples, lost)


def bare(messages: Iterable[Message]) -> list[Message]:
    """Role and content alone."""
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def common_start(rows: Iterable[Sequence[Any]]) -> int:
    """How many of their first elements are the same in all rows, of one length or not."""
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False)))


def stop_ids(tokenizer: Any) -> list[int]:
    """Ids that end a reply: end-of-text, and every control token of the template, for a role token ends it too."""
    probe = [{"role": role, "content": "a"} for role in ("user", "assistant", "user")]
    used = controls(tokenizer).ids.intersection(encode(tokenizer, probe, add_generation_prompt=True))
    return sorted(used | ({tokenizer.eos_token_id} - {None}))


def end_of_text(tokenizer: Any) -> int:
    """The id of the tokenizer's end-of-text token; raises InputError if it names none."""
    if tokenizer.eos_token_id is None:
        raise InputError("the tokenizer names no end-of-text token\nhint: set `eos_token` in its tokenizer_config.json")
    return tokenizer.eos_token_id


def controls(tokenizer: Any) -> Controls:
    """The tokens that steer a chat: flagged as special, or Baichuan's role tokens."""
    return _controls(tokenizer, len(tokenizer))


@lru_cache(maxsize=4)
def _controls(tokenizer: Any, _size: int) -> Controls:
    added = tokenizer.added_tokens_decoder
    roles = {number for number, token in added.items() if ROLE_PIECE.fullmatch(token.content)}
    ids = {number for number, token in added.items() if token.special} | set(tokenizer.all_special_ids) | roles
    texts = {added[number].content if number in added else tokenizer.convert_ids_to_tokens(number) for number in ids}
    longest_first = sorted(filter(str.strip, texts), key=lambda text: (-len(text), text))
    pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
    return Controls(pattern, frozenset(ids), frozenset(roles))


_NO_END = (
    "the chat template closes a reply with no token of its own: the adapter would never learn to stop\n"
    "hint: set a template that ends each assistant turn with a control token"
)


def _disarm(match: re.Match[str]) -> str:
    first, rest = match[0][0], match[0][1:]
    if "!" <= first <= "~":
        return chr(ord(first) + 0xFEE0) + rest
    return first + WORD_JOINER + rest if rest else "？"


def _closing(tokenizer: Any, turns: list[Message]) -> int:
    """The token that closes the last reply where the template does not: what a next user turn would begin with."""
    last = max(number for number, turn in enumerate(turns) if turn["role"] == "assistant")
    rendered = _apply(tokenizer, turns[: last + 1], False)
    following = _apply(tokenizer, [*turns[: last + 1], {"role": "user", "content": "a"}], False)
    more = _tokenize(tokenizer, following.removeprefix(rendered).lstrip())
    known = controls(tokenizer)
    return more[0] if more and more[0] in known.ids - known.roles else end_of_text(tokenizer)


def _accepted(tokenizer: Any, messages: Sequence[Message]) -> list[Message]:
    """The messages, neutralised, in the first form that the template takes."""
    if not tokenizer.chat_template:
        raise InputError("the tokenizer has no chat template\nhint: stages.base_model.load_tokenizer brings one")
    turns = [{**message, "content": neutralise(message["content"], tokenizer)} for message in messages]
    refusal: TemplateError | None = None
    for form in (_unspoken_for, _alternating, _without_system):
        try:
            turns = form(tokenizer, turns)
            _apply(tokenizer, turns, False)
        except TemplateError as error:
            refusal = error
        else:
            return turns
    raise InputError(
        f"the chat template refuses this conversation: {refusal}\nhint: begin with a user turn and alternate"
    ) from refusal


def _unspoken_for(tokenizer: Any, turns: list[Message]) -> list[Message]:
    """An empty system turn where the template would put in words of its own (Qwen2.5: "You are Qwen, …")."""
    if not turns or turns[0]["role"] == "system":
        return turns
    silent = [{"role": "system", "content": ""}, *turns]
    try:
        shorter = len(_apply(tokenizer, silent, False)) < len(_apply(tokenizer, turns, False))
    except TemplateError:
        return turns
    return silent if shorter else turns


def _alternating(_tokenizer: Any, turns: list[Message]) -> list[Message]:
    """Neighbours of one role joined, a user turn first (Gemma takes nothing else)."""
    joined: list[Message] = []
    for turn in turns:
        if joined and joined[-1]["role"] == turn["role"]:
            learn = joined[-1].get("learn", True) and turn.get("learn", True)
            joined[-1] = {**turn, "content": f"{joined[-1]['content']}\n{turn['content']}", "learn": learn}
        else:
            joined.append(turn)
    opening = 1 if joined and joined[0]["role"] == "system" else 0
    if len(joined) > opening and joined[opening]["role"] == "assistant":
        joined.insert(opening, {"role": "user", "content": "……"})
    return joined


def _without_system(_tokenizer: Any, turns: list[Message]) -> list[Message]:
    """The system text at the head of the first user turn (Baichuan-13B and Gemma 2 know no system role)."""
    if len(turns) < 2 or turns[0]["role"] != "system":
        return turns
    system, first, *rest = turns
    return [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *rest]


def _apply(tokenizer: Any, turns: list[Message], add_generation_prompt: bool) -> str:
    try:
        return tokenizer.apply_chat_template(
            bare(turns), tokenize=False, add_generation_prompt=add_generation_prompt, **OPTIONS
        )
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:  # of the template's own code
        raise TemplateRuntimeError(f"{type(error).__name__}: {error}") from error


def _tokenize(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _tokenized(tokenizer: Any, known: Controls, pieces: Iterable[Piece]) -> Iterator[tuple[Piece, list[int]]]:
    """Each piece with its ids as they stand behind the pieces before it."""
    tail, tail_ids = "", list[int]()
    for piece in pieces:
        more = _continue(tokenizer, tail, tail_ids, piece.text)
        yield piece, more
        tail, tail_ids = _tail(known, tail + piece.text, tail_ids + more)


def _continue(tokenizer: Any, tail: str, tail_ids: list[int], more: str) -> list[int]:
    """Ids of `more` behind `tail`; on its own, as a reply is generated, where a token would reach over the border."""
    whole = _tokenize(tokenizer, tail + more)
    if whole[: len(tail_ids)] == tail_ids:
        return whole[len(tail_ids) :]
    guard = tokenizer.eos_token or ""
    return _tokenize(tokenizer, guard + more)[len(_tokenize(tokenizer, guard)) :]


def _tail(known: Controls, text: str, ids: list[int]) -> tuple[str, list[int]]:
    """Text and ids from the last control token on, which is all that decides how the text behind it is tokenised."""
    at = max((match.start() for match in known.pattern.finditer(text)), default=0)
    start = max((number for number, token in enumerate(ids) if token in known.ids), default=0)
    return text[at:], ids[start:]


def _pieces(tokenizer: Any, turns: list[Message]) -> Iterator[Piece]:
    """Prompt, reply, prompt, reply …, found as the difference between renderings of growing prefixes."""
    replied = ""
    for number, turn in enumerate(turns):
        if turn["role"] != "assistant":
            continue
        prompt = _apply(tokenizer, turns[:number], True)
        rendered = _apply(tokenizer, turns[: number + 1], False)
        if not rendered.startswith(prompt):
            raise InputError(_MOVES)
        yield Piece(_since(tokenizer, turns, number, replied, prompt), False, False)
        yield Piece(rendered[len(prompt) :], True, turn.get("learn", True))
        replied = rendered


_MOVES = (
    "the chat template renders a reply differently from the prompt before it: its labels cannot be found\n"
    "hint: use a base whose template keeps the generation prompt in front of the reply"
)


def _since(tokenizer: Any, turns: list[Message], number: int, replied: str, prompt: str) -> str:
    """What the prompt of reply `number` adds behind the reply before it.

    Qwen3 takes the empty thought away from earlier replies; there it is what follows the earlier reply's words, less
    what closed them.
    """
    if prompt.startswith(replied):
        return prompt[len(replied) :]
    last = max(i for i in range(number) if turns[i]["role"] == "assistant")
    words = turns[last]["content"]
    other = {**turns[last], "content": words + ("#" if words.rstrip().endswith("＃") else "＃")}
    closing = _common_end(replied, _apply(tokenizer, [*turns[:last], other], False))
    following = _common_end(prompt, _apply(tokenizer, [*turns[:last], other, *turns[last + 1 : number]], True))
    if not following.startswith(closing):
        raise InputError(_MOVES)
    return following[len(closing) :]


def _common_end(one: str, other: str) -> str:
    return one[len(one) - common_start((one[::-1], other[::-1])) :]


def _rounds(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    """The system turn, and the rounds: each ends with a reply; what follows the last reply is left out."""
    system = list(messages[:1]) if messages and messages[0]["role"] == "system" else []
    rounds: list[list[Message]] = [[]]
    for message in messages[len(system) :]:
        rounds[-1].append(message)
        if message["role"] == "assistant":
            rounds.append([])
    return system, rounds[:-1]


def _sizes(tokenizer: Any, system: list[Message], rounds: list[list[Message]]) -> Callable[[int, int], int]:
    """How many tokens the rounds from `first` to before `end` take together with the system turn, nearly."""
    alone = [len(encode_supervised(tokenizer, [*system, *turns])[0]) for turns in rounds]
    pair = len(encode_supervised(tokenizer, [*system, *rounds[0], *rounds[1]])[0]) if len(rounds) > 1 else alone[0]
    head = sum(alone[:2]) - pair
    upto = [0, *accumulate(size - head for size in alone)]
    return lambda first, end: head + upto[end] - upto[first]


def _last(numbers: range, sizes: Iterable[int], limit: int) -> int:
    """The last of the numbers up to which all sizes keep to the limit; the first in any case."""
    fitting = takewhile(lambda pair: pair[1] <= limit, zip(numbers, sizes, strict=True))
    return max((number for number, _ in fitting), key=numbers.index, default=numbers[0])


def _window(
    tokenizer: Any, system: list[Message], rounds: list[list[Message]], first: int, start: int, end: int
) -> Sample:
    """Rounds from `first` to before `end` as a sample, those before `start` as context only."""
    context = [{**message, "learn": False} for turns in rounds[first:start] for message in turns]
    return encode_supervised(tokenizer, [*system, *context, *(m for turns in rounds[start:end] for m in turns)])
