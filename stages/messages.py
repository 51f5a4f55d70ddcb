"""A dialogue in, chat messages out: the same for training and for the exam."""

from collections.abc import Iterable
from dataclasses import dataclass

from stages.conversation import Message, fill_persona, neutralise
from stages.records import Dialogue, Piece, Turn


@dataclass(frozen=True)
class Card:
    """Who speaks and to whom; `persona` is the system prompt with `{user}` where the user's name goes."""

    character: str
    partner: str
    user_name: str
    persona: str
    narration: str


def to_messages(dialogue: Dialogue, card: Card) -> list[Message]:
    """The dialogue as system, user and assistant messages; a turn's lines are joined by newlines."""
    messages: list[Message] = [{"role": "system", "content": fill_persona(card.persona, card.user_name)}]
    for turn in dialogue.turns:
        narration = stage_directions(before(turn)) if card.narration == "all" else []
        spoken = [piece.text for piece in turn.lines if piece.kind != "narration"]
        if turn.speaker == card.partner:
            opening = stage_directions(piece for piece in turn.lines if piece.kind == "narration")
            messages.append({"role": "user", "content": _join(narration + opening + spoken)})
        else:
            messages[-1]["content"] = _join([messages[-1]["content"], *narration])
            messages.append({"role": "assistant", "content": _join(spoken), "learn": turn.learn is not False})
    return messages


def before(turn: Turn) -> list[Piece]:
    """The narration before the turn's first line: what came in the middle of it would give the rest away."""
    return [piece for piece in turn.context if piece.line < turn.lines[0].line]


def stage_directions(pieces: Iterable[Piece]) -> list[str]:
    """Narration in the brackets that role-players use."""
    return [f"（{piece.text}）" for piece in pieces]


def _join(lines: list[str]) -> str:
    return neutralise("\n".join(lines))
