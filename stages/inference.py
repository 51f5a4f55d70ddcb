"""An adapter's folder in, her replies out: the one way that evaluation, chat and server make her speak.

Replies come in batches: what all conversations begin with is computed once, and a finished reply leaves its batch.
"""

import copy
import random
import warnings
import zlib
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import pad
from tqdm import tqdm

from stages.attention import masks, new_cache, plain
from stages.base_model import find_device, load_base
from stages.conversation import Message, common_start, encode, stop_ids
from stages.records import InputError
from stages.scoring import quiet
from stages.trust import CARD, TEMPLATE, check_adapter, read_object, unfit_decoding

Conversation = Sequence[Message]

CONTEXT_TOKENS = 2048  # a conversation's memory: its oldest rounds are forgotten first
BATCH = 128  # conversations at once: on two cores 10 ms of a core a token, where 32 take 10 and one takes 60
READ_TOKENS = 2048  # of prompts read at once, padding included: enough for a full-speed product
BATCH_TOKENS = 16384  # prompt tokens a server's batch, padding included
CACHE_BYTES = 2**30  # keys and values of a batch on a CPU; a GPU gives a quarter of what its weights leave
CANDIDATES = 256  # the likeliest tokens that sampling ever looks at
BLANK = 20  # tokens: how long a reply may put off its first word
ROUNDS, ROUND_TOKENS, LONGEST_ROUND = 4, 16, 12  # when a greedy reply goes round for good: times, tokens in all, in one
REPEAT_FREE, REPEAT_BASE = 2, 1.75  # tokens that may be said again, and how fast the price of a longer repeat grows


@dataclass(frozen=True)
class Character:
    """A model with its adapter, its tokenizer, and what its folder says of her."""

    model: PeftModel
    tokenizer: Any
    card: dict[str, Any]


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen; the keys of the adapter's `decoding` and what a front may add.

    temperature 0 is greedy. `repetition_penalty` lowers every token of the reply so far (Keskar et al. 2019),
    `repeat_guard` a token that would go on repeating a sequence of the reply, the more the longer that is (DRY, from
    text-generation-webui, 2024); 1 and 0 are off. `seed` None draws anew each time.
    """

    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    repetition_penalty: float
    repeat_guard: float = 0.8
    seed: int | None = None

    def unguarded(self) -> bool:
        """Greedy and nothing else: what is said depends on what was said alone."""
        return self.temperature <= 0 and self.repetition_penalty == 1 and not self.repeat_guard


class Reply(NamedTuple):
    """A finished reply, how many tokens it took, and whether it ended by itself."""

    text: str
    tokens: int
    ended: bool


@dataclass
class Draft:
    """A reply while its tokens arrive; who speaks it knows the name of her user."""

    character: Character
    dice: random.Random
    tokens: list[int] = field(default_factory=list)
    ended: bool = False

    def goes_on(self, limit: int) -> bool:
        """Whether another token is wanted: not ended, not at the limit, not yet speaking for somebody else."""
        return not self.ended and len(self.tokens) < limit and not spoken(self.character, self.tokens)[1]


# --- loading


def load_character(folder: Path | str, *, whole: bool = False) -> Character:
    """The character of an adapter's folder, in eval mode on the best device; fp32 where there is no GPU.

    The base is in four bits if she was trained on that. `whole` is for who would merge her into it: in place of four
    bits the stored weights, in the machine's memory, for the GPU may be too small for them.
    On a CPU bf16 pays for large products alone: PyTorch 2.13 prepares one anew for every number of rows, which takes it
    most of a minute for a vocabulary of 262,144, and a batch shrinks at each step.
    Raises InputError for weights that are not safetensors, and for an adapter that was made for another base.
    """
    folder = Path(folder)
    check_adapter(folder)
    card = read_object(folder / CARD)
    base, tokenizer = load_base(
        card["base_model"], revision=card["revision"], **_precision(card.get("quantize"), whole)
    )
    tokenizer.chat_template = (folder / TEMPLATE).read_text(encoding="utf-8")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)  # by PEFT 0.21
            model = PeftModel.from_pretrained(base, str(folder))
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise InputError(f"{folder}: expected an adapter for {card['base_model']}, got: {error}") from error
    return Character(model.eval(), tokenizer, card)


def _precision(quantize: str | None, whole: bool) -> dict[str, Any]:
    if whole and quantize:
        return {"dtype": "stored", "device": torch.device("cpu")}
    return {"dtype": "fp32" if find_device().type == "cpu" else "auto", "quantize": quantize}


@contextmanager
def in_dtype(model: PeftModel, dtype: torch.dtype) -> Iterator[None]:
    """The base's weights in another precision for a while; the adapter's own stay as they are."""
    weights = [weight for name, weight in model.named_parameters() if "lora_" not in name]
    kept = [(weight, weight.data) for weight in weights if weight.is_floating_point() and weight.dtype != dtype]
    for weight, data in kept:
        weight.data = data.to(dtype)
    try:
        yield
    finally:
        for weight, data in kept:
            weight.data = data


def exact_dtype(model: PeftModel) -> torch.dtype:
    """fp32, in which turns can be compared, where the device has room for it; else the model's own precision."""
    if getattr(model.config, "quantization_config", None):
        return model.dtype
    if model.device.type == "cuda":
        needed = 4 * sum(weight.numel() for weight in model.parameters())
        return torch.float32 if room_beside(model) > 1.5 * needed else model.dtype
    return torch.float32 if model.device.type == "cpu" else model.dtype


def room_beside(model: Any) -> int:
    """Bytes of the GPU that the weights leave: what is free differs from run to run, and would change the batches."""
    taken = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    return torch.cuda.get_device_properties(model.device).total_memory - taken


def addressing(character: Character, user_name: str) -> Character:
    """The same character with a user of this name, for whom she must not speak either."""
    return replace(character, card={**character.card, "user_name": user_name})


# --- the two doors


def stream(character: Character, messages: Conversation, decoding: Mapping[str, Any] | Decoding) -> Iterator[str]:
    """The reply to one conversation in pieces, as it is spoken."""
    options = as_decoding(decoding)
    prompt = encode_prompt(character.tokenizer, messages)
    draft, said = Draft(character, dice(prompt, options.seed)), 0
    for _ in generate(character, [prompt], [draft], options):
        text, _ = spoken(character, draft.tokens)
        text = sure(character, text, over=not draft.goes_on(options.max_new_tokens))
        if len(text) > said:
            yield text[said:]
            said = len(text)


def reply_all(
    character: Character,
    conversations: Sequence[Conversation],
    decoding: Mapping[str, Any] | Decoding,
    *,
    user_names: Sequence[str] = (),
    use_adapter: bool = True,
    title: str | None = None,
) -> list[Reply]:
    """One reply to each conversation; the same seed and conversation give the same reply, whatever else is asked.

    `user_names` are those of their users, if not all have the card's; `title` shows a progress bar on a terminal.
    """
    options = as_decoding(decoding)
    prompts = [encode_prompt(character.tokenizer, messages) for messages in conversations]
    speakers = [addressing(character, name) for name in user_names] or [character] * len(prompts)
    replies: dict[int, Reply] = {}
    with (
        nullcontext() if use_adapter else character.model.disable_adapter(),
        tqdm(total=len(prompts), desc=title, disable=quiet(title)) as progress,
    ):
        for batch in batches(prompts, batch_tokens(character.model)):
            drafts = [Draft(speakers[index], dice(prompts[index], options.seed)) for index in batch]
            for _ in generate(character, [prompts[index] for index in batch], drafts, options):
                pass
            replies |= zip(batch, map(finish, drafts), strict=True)
            progress.update(len(batch))
    return [replies[index] for index in range(len(prompts))]


def as_decoding(decoding: Mapping[str, Any] | Decoding) -> Decoding:
    """The values as a Decoding; raises InputError for a missing or unknown key and for a value out of bounds."""
    if isinstance(decoding, Decoding):
        return decoding
    if unfit := unfit_decoding(decoding):
        raise InputError("decoding: expected {}, got {}".format(*unfit))
    return Decoding(**decoding)


def finish(draft: Draft) -> Reply:
    """The reply that a draft has become."""
    text, closed = spoken(draft.character, draft.tokens)
    return Reply(sure(draft.character, text, over=True), len(draft.tokens), draft.ended or closed)


def greedy(max_new_tokens: int) -> Decoding:
    """The likeliest token each time, and no guards: the model as it is."""
    return Decoding(max_new_tokens, 0.0, 1.0, 0, 1.0, repeat_guard=0.0)


def dice(prompt: Sequence[int], seed: int | None) -> random.Random:
    """A conversation's own source of chance, so that its neighbours in a batch change nothing; a new one for None."""
    own = f"{seed}/{zlib.crc32(' '.join(map(str, prompt)).encode())}"
    return random.Random(None if seed is None else own)


# --- prompts


def encode_prompt(tokenizer: Any, messages: Conversation) -> list[int]:
    """Token ids of the conversation, its oldest rounds left out while it is too long."""
    return encode(tokenizer, trim_history(tokenizer, messages, CONTEXT_TOKENS), add_generation_prompt=True)


def trim_history(tokenizer: Any, messages: Conversation, limit: int) -> list[Message]:
    """The messages without so many of the oldest rounds that `limit` tokens hold the prompt.

    A round begins with a user turn and goes as a whole; the system turn and the last round always stay.
    """
    opening = 1 if messages and messages[0]["role"] == "system" else 0
    starts = [i for i, message in enumerate(messages) if i > opening and message["role"] == "user"]

    def after(start: int) -> list[Message]:
        return [*messages[:opening], *messages[start:]]

    def fits(start: int) -> bool:
        return len(encode(tokenizer, after(start), add_generation_prompt=True)) <= limit

    if not starts or fits(opening):
        return list(messages)
    return after(starts[min(bisect_left(starts, True, key=fits), len(starts) - 1)])


def batches(prompts: Sequence[Sequence[int]], most: int) -> Iterator[list[int]]:
    """Indices of prompts of like length, `most` tokens a batch, padding included."""
    batch: list[int] = []
    for index in sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i)):
        longest = len(prompts[batch[0]]) if batch else 0
        if batch and (len(batch) == BATCH or longest * (len(batch) + 1) > most):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def batch_tokens(model: Any) -> int:
    """How many tokens' keys and values a batch may hold."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    bytes_a_token = 2 * config.num_hidden_layers * heads * size * model.dtype.itemsize
    room = room_beside(model) // 4 if model.device.type == "cuda" else CACHE_BYTES
    return room // bytes_a_token


# --- generation


@torch.inference_mode()
def generate(
    character: Character, prompts: Sequence[list[int]], drafts: Sequence[Draft], decoding: Decoding
) -> Iterator[None]:
    """Write a token into every open draft at each step, until all have ended or reached the limit.

    A draft that goes round for good is full at once; at each step all that has become of the drafts can be seen.
    """
    model, stops = character.model.get_base_model(), stop_ids(character.tokenizer)
    state = State.open(model, prompts)
    active = list(drafts)
    for _ in range(decoding.max_new_tokens):
        tokens = choose(state.logits, active, decoding, stops)
        for draft, token in zip(active, tokens, strict=True):
            draft.ended = token in stops
            if not draft.ended:
                draft.tokens.append(token)
        for draft in active if decoding.unguarded() else ():
            go_round(draft, decoding.max_new_tokens)
        yield
        alive = [i for i, draft in enumerate(active) if draft.goes_on(decoding.max_new_tokens)]
        active = [active[i] for i in alive]
        if not active:
            return
        state = state.step([tokens[i] for i in alive], alive)


def go_round(draft: Draft, limit: int) -> None:
    """Fill a reply that repeats one sequence for good up to the limit, as it would go on.

    Of 169 such replies of the embedded base and an adapter, written out, none had gone on otherwise.
    """
    tokens = draft.tokens
    for size in range(1, LONGEST_ROUND + 1):
        needed = max(ROUNDS * size, ROUND_TOKENS)
        if len(tokens) >= needed and tokens[-needed:-size] == tokens[size - needed :]:
            while len(tokens) < limit:
                tokens.append(tokens[-size])
            return


@dataclass
class State:
    """A batch in the middle of generation: its cache, which of the cached tokens are real and their positions
    [rows, tokens], and the logits of the next token [rows, words]."""

    model: Any
    cache: Any
    real: Tensor
    position: Tensor
    logits: Tensor

    @classmethod
    def open(cls, model: Any, prompts: Sequence[list[int]]) -> "State":
        """Read the prompts: what they share once, the rest in groups of like length."""
        if not plain(model):
            return cls._read(model, prompts, None, 0)
        # Of no prompt the last token: what comes after it is wanted.
        shared, prefix = min(common_start(prompts), min(map(len, prompts)) - 1), new_cache(model)
        if shared:
            model.get_decoder()(input_ids=torch.tensor([prompts[0][:shared]], device=model.device), cache=prefix)
        return join([cls._read(model, group, copy.deepcopy(prefix), shared) for group in like_length(prompts, shared)])

    @classmethod
    def _read(cls, model: Any, prompts: Sequence[list[int]], cache: Any, shared: int) -> "State":
        """Some prompts side by side, padded on the left, after the `shared` tokens in the cache."""
        rests = [prompt[shared:] for prompt in prompts]
        width = max(map(len, rests))
        ids = torch.tensor([[0] * (width - len(rest)) + rest for rest in rests], device=model.device)
        empty = torch.tensor([[width - len(rest)] for rest in rests], device=model.device)
        columns = torch.arange(width, device=model.device)[None, :]
        before = torch.arange(shared, device=model.device).expand(len(prompts), -1)
        if shared:
            cache.batch_repeat_interleave(len(prompts))
        real = torch.cat([before >= 0, columns >= empty], dim=1)
        position = torch.cat([before, shared + (columns - empty).clamp(min=0)], dim=1)
        return cls(model, cache, real, position, torch.empty(0))._run(ids)

    def step(self, tokens: list[int], rows: list[int]) -> "State":
        """Add one token to each of the rows that go on; the others leave the batch."""
        if len(rows) < len(self.real):
            keep = torch.tensor(rows, device=self.model.device)
            self.cache.reorder_cache(keep)  # which recurrent states have too
            self.real, self.position = self.real[keep], self.position[keep]
        self.real = torch.cat([self.real, self.real.new_ones(len(rows), 1)], dim=1)
        self.position = torch.cat([self.position, self.position[:, -1:] + 1], dim=1)
        return self._run(torch.tensor(tokens, device=self.model.device)[:, None])

    def _run(self, ids: Tensor) -> "State":
        position = self.position[:, -ids.shape[1] :]
        output = self.model(
            input_ids=ids,
            attention_mask=self._masks(position),
            position_ids=position,
            cache=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.cache, self.logits = output.cache, output.logits[:, -1].float()
        return self

    def _masks(self, position: Tensor) -> Tensor | dict[str, Tensor]:
        if not plain(self.model):
            return self.real.long()
        places = torch.arange(self.real.shape[1], device=self.real.device)
        seen = places[None, :] <= places[-position.shape[1] :, None]
        own = places[None, :] == places[-position.shape[1] :, None]  # a pad sees itself: no row of a softmax is empty
        return masks(self.model, seen[None] & self.real[:, None, :] | own[None], position, self.position)


def like_length(prompts: Sequence[list[int]], shared: int) -> Iterator[list[list[int]]]:
    """Neighbours to read at once: padding is work, and a dialogue is many times as long as a question."""
    group: list[list[int]] = []
    for prompt in prompts:
        width = max(map(len, [*group, prompt])) - shared
        if group and width * (len(group) + 1) > READ_TOKENS:
            yield group
            group = []
        group.append(prompt)
    yield group


def join(states: Sequence[State]) -> State:
    """One batch of several: the narrower ones padded on the left."""
    first, *others = states
    if not others:
        return first
    width = max(state.real.shape[1] for state in states)
    empty = [width - state.real.shape[1] for state in states]
    cache = new_cache(first.model)
    for index, layers in enumerate(zip(*(state.cache.layers for state in states), strict=True)):
        keys, values = (
            torch.cat([pad(getattr(layer, name), (0, 0, gap, 0)) for layer, gap in zip(layers, empty, strict=True)])
            for name in ("keys", "values")
        )
        cache.update(keys, values, index)
        for layer in layers:
            layer.keys = layer.values = None  # so that the whole is never held twice
    real, position = (
        torch.cat([pad(getattr(state, name), (gap, 0)) for state, gap in zip(states, empty, strict=True)])
        for name in ("real", "position")
    )
    return State(first.model, cache, real, position, torch.cat([state.logits for state in states]))


def choose(logits: Tensor, drafts: Sequence[Draft], decoding: Decoding, stops: Sequence[int]) -> list[int]:
    """The next token of each draft."""
    logits = logits.clone()
    for row, draft in zip(logits, drafts, strict=True):
        penalise(row, draft.tokens, decoding)
        if decoding.repeat_guard and len(draft.tokens) < BLANK and not spoken(draft.character, draft.tokens)[0].strip():
            row[list(stops)] = -torch.inf  # no empty reply
    if decoding.temperature <= 0:
        return logits.argmax(-1).tolist()
    return sample(logits, [draft.dice.random() for draft in drafts], decoding)


def penalise(row: Tensor, tokens: Sequence[int], decoding: Decoding) -> None:
    """Lower the logits of what the reply has said, and of what would repeat a whole sequence of it."""
    if tokens and decoding.repetition_penalty != 1:
        said = torch.tensor(sorted(set(tokens)), device=row.device)
        factor = torch.where(row[said] > 0, 1 / decoding.repetition_penalty, decoding.repetition_penalty)
        row[said] *= factor
    for token, repeated in repeats(tokens).items() if decoding.repeat_guard else ():
        if repeated >= REPEAT_FREE:
            row[token] -= decoding.repeat_guard * REPEAT_BASE ** (repeated - REPEAT_FREE)


def repeats(tokens: Sequence[int]) -> dict[int, int]:
    """For each token that would go on repeating the reply's end: how long the repeated sequence already is."""
    longest: dict[int, int] = {}
    for end in range(1, len(tokens)):
        size = 0
        while size < end and tokens[end - 1 - size] == tokens[-1 - size]:
            size += 1
        if size:
            longest[tokens[end]] = max(size, longest.get(tokens[end], 0))
    return longest


def sample(logits: Tensor, draws: Sequence[float], decoding: Decoding) -> list[int]:
    """Inverse transform sampling among the top k that together have the share top p; draws are in [0, 1)."""
    count = min(decoding.top_k or CANDIDATES, CANDIDATES, logits.shape[-1])
    best, tokens = (part.cpu() for part in logits.topk(count, dim=-1))  # Apple's GPUs have no fp64
    shares = (best / decoding.temperature).softmax(-1)
    before = shares.cumsum(-1) - shares
    shares = shares.masked_fill((before >= decoding.top_p) & (before > 0), 0.0).double()  # one stays in any case
    reach = shares.cumsum(-1)
    draw = torch.tensor(draws, dtype=torch.double)[:, None] * reach[:, -1:]
    chosen = (reach <= draw).sum(-1, keepdim=True).clamp(max=count - 1)
    return tokens.gather(1, chosen)[:, 0].tolist()


# --- text


def spoken(character: Character, tokens: Sequence[int]) -> tuple[str, bool]:
    """The text of a reply so far, and whether it was cut where another turn begins."""
    text = character.tokenizer.decode(list(tokens), skip_special_tokens=True).lstrip()
    cuts = [at for at in (text.find(marker) for marker in markers(character)) if at >= 0]
    return (text[: min(cuts)].rstrip(), True) if cuts else (text, False)


def markers(character: Character) -> list[str]:
    """What never stands inside a reply: somebody's name and a colon on a new line, as in the script."""
    names = (character.card["partner"], character.card["character"], character.card["user_name"])
    return [f"\n{name}{colon}" for name in dict.fromkeys(names) for colon in ("：", ":")]


def sure(character: Character, text: str, over: bool) -> str:
    """The text less half a character at its end; before the reply is over, also less the beginning of a marker."""
    text = text.rstrip("\ufffd").rstrip()  # a length in tokens may end within a character
    longest = max(map(len, markers(character)))
    tail = -1 if over else text.rfind("\n", max(0, len(text) - longest))
    return text[:tail] if tail >= 0 else text
