"""The kind of what an engine's script lets somebody say: the engine knows who speaks, brackets tell a thought."""

from stages.formats.quotes import wrapped


def kind_of(speaker: str | None, text: str) -> str:
    """Speech or a thought under a name, narration without one."""
    if not speaker:
        return "narration"
    return "thought" if text[:1] in ("（", "(") and wrapped(text.strip(), "（(") else "speech"
