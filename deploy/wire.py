"""The OpenAI chat format: a request's bytes in, an Ask out; her words in, a response's objects out."""

import re
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from deploy.engine import Ask, Ending, Message
from stages.conversation import fill_persona
from stages.inference import Decoding, as_decoding
from stages.records import InputError

BASE = "base"  # the name under which the model answers without its adapter
LONGEST = 1024  # tokens of a reply, whatever is asked for
LONGEST_NAME = 40
# What no name holds: the marks of persona and script, those of ids (auth0|…, a@b.c), a third digit. The page agrees.
FORBIDDEN = r"[\n\r：:{}|@_/\\=]|[0-9](?=(?:.*[0-9]){2})"
LEAST_SHARE = 1e-9  # top_p 0, as OpenAI allows: the likeliest token alone


class RequestError(ValueError):
    """What a client gets instead of an answer: an HTTP status, a message, and OpenAI's error code."""

    def __init__(self, status: int, message: str, code: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code

    def body(self) -> dict[str, Any]:
        """The JSON object that OpenAI's clients understand."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": None, "code": self.code}}


class TextPart(BaseModel):
    """A part of a message; pictures and sound have no place here."""

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """A message as clients send it."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    def text(self) -> str:
        """Its content as one text."""
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class StreamOptions(BaseModel):
    """`stream_options` of a request."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """The fields that mean something here. Others are ignored, but for those in REFUSED."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptions = StreamOptions()
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=0)
    repetition_penalty: float | None = Field(None, gt=0, le=2)
    seed: int | None = None
    stop: list[Annotated[str, Field(min_length=1, max_length=100)]] = Field([], max_length=8)
    user: str | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else [] if value is None else value

    @field_validator("stream_options", mode="before")
    @classmethod
    def _or_none(cls, value: Any) -> Any:
        return {} if value is None else value


# What would change the shape of an answer; to leave it out in silence would mislead the client.
REFUSED = {
    "n": (None, 1),
    "tools": (None, []),
    "functions": (None, []),
    "logprobs": (None, False),
    "audio": (None,),
    "modalities": (None, ["text"]),
    "response_format": (None, {"type": "text"}),
}


def read_request(body: bytes) -> ChatRequest:
    """The request, or a RequestError that says what is wrong with it."""
    try:
        request = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise RequestError(400, f"{where}: {first['msg']}", "invalid_value") from error
    for name, allowed in REFUSED.items():
        if (request.model_extra or {}).get(name) not in allowed:
            raise RequestError(400, f"{name}: not served here; leave it out", "unsupported_parameter")
    if request.messages[-1].role == "assistant":
        raise RequestError(400, "messages: expected the user's turn last, got the assistant's", "invalid_value")
    return request


def to_ask(request: ChatRequest, card: Mapping[str, Any]) -> Ask:
    """What the model is asked; raises a RequestError for a model that is not here."""
    if request.model not in (card["character"], BASE):
        message = f"expected the model {card['character']!r} or {BASE!r}, got {request.model!r}"
        raise RequestError(404, message, "model_not_found")
    user_name = request.user if is_name(request.user or "") else card["user_name"]
    messages = to_messages(request.messages, card["persona"], user_name)
    return Ask(messages, to_decoding(request, card), user_name, tuple(request.stop), request.model != BASE)


def is_name(text: str) -> bool:
    """Whether she can call somebody so; other clients send an opaque id as `user`."""
    return bool(text.strip()) and len(text) <= LONGEST_NAME and not re.search(FORBIDDEN, text)


def to_messages(given: Sequence[ChatMessage], persona: str, user_name: str) -> list[Message]:
    """System turn and conversation: the client's opening system turns, or else her own persona.

    A system turn in the middle, which chat templates do not know, becomes a stage direction.
    """
    opening = next((i for i, message in enumerate(given) if message.role in ("user", "assistant")), len(given))
    system = "\n\n".join(message.text() for message in given[:opening]) or persona
    turns = [
        {"role": message.role, "content": message.text()}
        if message.role in ("user", "assistant")
        else {"role": "user", "content": f"（{message.text()}）"}
        for message in given[opening:]
    ]
    return [{"role": "system", "content": fill_persona(system, user_name)}, *turns]


def to_decoding(request: ChatRequest, card: Mapping[str, Any]) -> Decoding:
    """The adapter's own decoding with what the client asks to be different; raises a RequestError if it is unfit."""
    given = {name: getattr(request, name) for name in ("temperature", "top_p", "top_k", "repetition_penalty", "seed")}
    given["max_new_tokens"] = request.max_completion_tokens or request.max_tokens
    changed = {name: value for name, value in given.items() if value is not None}
    decoding = {**card["decoding"], **changed}
    decoding["top_p"] = max(decoding["top_p"], LEAST_SHARE)
    decoding["max_new_tokens"] = min(decoding["max_new_tokens"], LONGEST)
    try:
        return as_decoding(decoding)
    except InputError as error:
        raise RequestError(400, str(error), "invalid_value") from error


# --- responses


def models(card: Mapping[str, Any], created: int) -> list[dict[str, Any]]:
    """The model list; her names stand beside her, for the page."""
    names = {name: card[name] for name in ("character", "partner", "user_name")}
    return [
        {"id": name, "object": "model", "created": created, "owned_by": "local", **names}
        for name in (card["character"], BASE)
    ]


def completion(text: str, ending: Ending, model: str) -> dict[str, Any]:
    """The response to a request without `stream`."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": ending.reason}
    return {**head("chat.completion", model), "choices": [choice], "usage": usage(ending)}


def head(kind: str, model: str) -> dict[str, Any]:
    """What every response begins with; all chunks of one reply share it."""
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def chunk(head: Mapping[str, Any], delta: Mapping[str, str], reason: str | None = None) -> dict[str, Any]:
    """One event of a stream."""
    return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


def usage(ending: Ending) -> dict[str, int]:
    """The tokens of prompt and reply."""
    total = ending.prompt_tokens + ending.reply_tokens
    return {"prompt_tokens": ending.prompt_tokens, "completion_tokens": ending.reply_tokens, "total_tokens": total}
