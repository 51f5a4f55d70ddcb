"""Talk to a trained adapter in the terminal: python -m deploy.chat [folder or experiment] [--name 小满]

Streams her replies; /reset begins anew, /name NAME tells her another name, /quit (or Ctrl-D) leaves.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import TextIOWrapper

from deploy.adapters import DEFAULT, find_adapter
from stages.cli import run
from stages.conversation import fill_persona

Message = dict[str, str]
Reply = Callable[[list[Message]], Iterator[str]]
HELP = "/reset begins anew, /name NAME tells her your name, /quit leaves"
STEERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # a terminal: its title, its colours, the clipboard


@dataclass
class Talk:
    """A conversation with one character: her persona, the user's name, and what was said."""

    persona: str
    user_name: str
    said: list[Message] = field(default_factory=list)

    def messages(self) -> list[Message]:
        """What the model sees."""
        return [{"role": "system", "content": fill_persona(self.persona, self.user_name)}, *self.said]

    def say(self, text: str, reply: Reply) -> Iterator[str]:
        """Yield her reply in pieces; a reply that is broken off leaves no half round behind."""
        self.said.append({"role": "user", "content": text})
        pieces = []
        try:
            for piece in reply(self.messages()):
                pieces.append(piece)
                yield piece
        finally:
            if pieces:
                self.said.append({"role": "assistant", "content": "".join(pieces)})
            else:
                self.said.pop()


def answer(talk: Talk, text: str, reply: Reply) -> Iterator[str]:
    """What to print for one line of the user: a command's effect or her words."""
    command, _, rest = text.partition(" ")
    if command == "/reset":
        talk.said.clear()
        yield "(a new conversation)"
    elif command == "/name" and rest.strip():
        talk.user_name = rest.strip()
        yield f"(she knows you as {talk.user_name} now)"
    elif command.startswith("/"):
        yield f"({HELP})"
    else:
        yield from talk.say(text, reply)


def converse(talk: Talk, character: str, reply: Reply) -> None:
    """Read lines until the end of input or /quit; half a character, as a broken line gives, reads as �."""
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    while True:
        try:
            text = input(f"{talk.user_name}: ").strip()
        except EOFError:
            print()
            return
        if text == "/quit":
            return
        if text:
            print(f"{character}: ", end="", flush=True)
            try:
                for piece in answer(talk, text, reply):
                    print(STEERS.sub("", piece), end="", flush=True)
            except KeyboardInterrupt:
                print(" (broken off)", end="")
            print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("adapter", nargs="?", default=DEFAULT, help="a folder, or the name of an experiment")
    parser.add_argument("--name", help="your name (default: the partner's)")
    parser.add_argument("--temperature", type=float, help="default: the adapter's own")
    parser.add_argument("--seed", type=int, help="the same seed and words give the same replies")
    options = parser.parse_args()
    folder = find_adapter(options.adapter)
    print(f"loading {folder} …", file=sys.stderr)
    # Only once the adapter is known to be there: torch takes seconds.
    from stages.inference import addressing, load_character, stream

    character = load_character(folder)
    given = {"temperature": options.temperature, "seed": options.seed}
    decoding = {**character.card["decoding"], **{key: value for key, value in given.items() if value is not None}}
    talk = Talk(character.card["persona"], options.name or character.card["user_name"])
    print(f"({HELP})")

    def reply(messages: list[Message]) -> Iterator[str]:
        return stream(addressing(character, talk.user_name), messages, decoding)

    converse(talk, character.card["character"], reply)


if __name__ == "__main__":
    run(main)
