"""One model for many who ask: conversations in, her words out as they come.

A single thread owns the model. Whoever waits while it is busy is answered in the next batch, all at once: on a CPU
twenty replies together take far less than twenty times as long as one.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from stages.conversation import Message
from stages.inference import (
    BATCH,
    BATCH_TOKENS,
    CONTEXT_TOKENS,
    Character,
    Decoding,
    Draft,
    addressing,
    dice,
    encode_prompt,
    generate,
    spoken,
    sure,
)
from stages.records import InputError

WAITING = 64  # conversations; more than these are sent away rather than left to time out
CHARACTERS_A_TOKEN = 16  # more than tokens of any text hold on average
TOO_LONG = f"expected at most {CONTEXT_TOKENS} tokens in persona and last message, got {{}}"
LINGER = 0.02  # seconds that a batch waits for others who ask at the same moment


class Overloaded(RuntimeError):
    """Too many wait already."""


@dataclass(frozen=True)
class Ask:
    """A conversation, the system turn included, and how to answer it; `use_adapter` false asks the base model."""

    messages: list[Message]
    decoding: Decoding
    user_name: str
    stop: tuple[str, ...] = ()
    use_adapter: bool = True


class Ending(NamedTuple):
    """Why a reply ended (stop or length), and the tokens it took."""

    reason: str
    prompt_tokens: int
    reply_tokens: int


@dataclass
class Job:
    """An Ask on its way: its prompt, how much of the reply has been said, and where that is sent."""

    ask: Ask
    prompt: list[int]
    character: Character
    loop: asyncio.AbstractEventLoop
    out: asyncio.Queue = field(default_factory=asyncio.Queue)
    said: int = 0
    over: bool = False  # answered, or nobody listens any more

    def send(self, item: str | Ending | Exception) -> None:
        """Hand something to who asked, whose event loop runs in another thread."""
        self.loop.call_soon_threadsafe(self.out.put_nowait, item)

    def hear(self, draft: Draft) -> None:
        """Send on what has become sure of the reply, and its ending."""
        limit = self.ask.decoding.max_new_tokens
        tokens = draft.tokens[:limit]  # others of the batch may ask for more
        text, closed = spoken(self.character, tokens)
        text, stopped = cut(text, self.ask.stop)
        ended = draft.ended or closed or stopped
        over = ended or len(tokens) == limit
        text = hold(sure(self.character, text, over), () if over else self.ask.stop)
        if len(text) > self.said:
            self.send(text[self.said :])
            self.said = len(text)
        if over:
            self.send(Ending("stop" if ended else "length", len(self.prompt), len(tokens)))
            self.over = True


class Engine:
    """A character who answers; `speak` may be called by any number of tasks at once."""

    def __init__(self, character: Character) -> None:
        self.character = character
        self.waiting: list[Job] = []
        self.changed = threading.Condition()
        threading.Thread(target=self._work, daemon=True).start()

    async def speak(self, ask: Ask) -> AsyncIterator[str | Ending]:
        """Her reply in pieces, then its Ending. To stop it, close the iterator."""
        prompt = await asyncio.to_thread(encode_prompt, self.character.tokenizer, recent(ask.messages))
        if len(prompt) > CONTEXT_TOKENS:
            raise InputError(TOO_LONG.format(len(prompt)))
        job = Job(ask, prompt, addressing(self.character, ask.user_name), asyncio.get_running_loop())
        self._queue(job)
        try:
            while not isinstance(item := await job.out.get(), Ending):
                if isinstance(item, Exception):
                    raise item
                yield item
            yield item
        finally:
            job.over = True

    def _queue(self, job: Job) -> None:
        with self.changed:
            self.waiting = [waiting for waiting in self.waiting if not waiting.over]  # who left takes no place
            if len(self.waiting) >= WAITING:
                raise Overloaded(f"{WAITING} conversations wait already")
            self.waiting.append(job)
            self.changed.notify()

    def _work(self) -> None:
        while True:
            batch = self._next_batch()
            try:
                self._answer(batch)
            except Exception as error:  # such as too little memory: they are told, and the next ones are answered
                for job in batch:
                    job.send(error)

    def _next_batch(self) -> list[Job]:
        """The one who waits longest, and all others who can be answered together with him."""
        with self.changed:
            self.changed.wait_for(lambda: self.waiting)
        time.sleep(LINGER)
        with self.changed:
            batch: list[Job] = []
            for job in self.waiting:
                if not job.over and (not batch or fits(job, batch)):
                    batch.append(job)
            self.waiting = [job for job in self.waiting if job not in batch and not job.over]
            return batch

    def _answer(self, batch: Sequence[Job]) -> None:
        drafts = [Draft(job.character, dice(job.prompt, job.ask.decoding.seed)) for job in batch]
        if not batch:
            return
        longest = max(job.ask.decoding.max_new_tokens for job in batch)
        decoding = replace(batch[0].ask.decoding, max_new_tokens=longest)
        with nullcontext() if batch[0].ask.use_adapter else self.character.model.disable_adapter():
            for _ in generate(self.character, [job.prompt for job in batch], drafts, decoding):
                for job, draft in zip(batch, drafts, strict=True):
                    if not job.over:
                        job.hear(draft)
                    draft.ended = job.over  # it leaves the batch


def recent(messages: list[Message]) -> list[Message]:
    """The system turn and the last messages that could be remembered; reading more would keep all others waiting.

    Raises InputError where the system turn and the last message alone are too much.
    """
    system, *others = messages
    kept: list[Message] = []
    size = len(system["content"])
    for message in reversed(others):
        size += max(CHARACTERS_A_TOKEN, len(message["content"]))  # its marks alone are a token or more
        if kept and size > CHARACTERS_A_TOKEN * CONTEXT_TOKENS:
            break
        kept.append(message)
    if len(kept) == 1 and size > CHARACTERS_A_TOKEN * CONTEXT_TOKENS:
        raise InputError(TOO_LONG.format(f"{size} characters"))
    return [system, *reversed(kept)]


def fits(job: Job, batch: Sequence[Job]) -> bool:
    """Whether the job can be answered with the others: the same model and decoding but for seed and length."""
    longest = max(len(other.prompt) for other in (*batch, job))
    return len(batch) < BATCH and longest * (len(batch) + 1) <= BATCH_TOKENS and settings(job) == settings(batch[0])


def settings(job: Job) -> tuple[bool, Decoding]:
    """What all jobs of a batch share."""
    return job.ask.use_adapter, replace(job.ask.decoding, seed=None, max_new_tokens=0)


def cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before the first of the stops, and whether there was one."""
    found = [at for at in map(text.find, stops) if at >= 0]
    return (text[: min(found)], True) if found else (text, False)


def hold(text: str, stops: Sequence[str]) -> str:
    """The text less an end that may be the beginning of a stop."""
    parts = {len(part) for stop in stops for part in beginnings(stop) if text.endswith(part)}
    return text[: len(text) - max(parts, default=0)]


def beginnings(stop: str) -> list[str]:
    """Its beginnings, shorter than itself."""
    return [stop[:size] for size in range(1, len(stop))]
