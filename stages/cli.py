"""How every command ends: 0, or 1 with one plain message on stderr."""

import sys
from collections.abc import Callable

from stages.records import InputError


def run(main: Callable[[], None]) -> None:
    """Call main() and end the process; an InputError becomes `error: …` and exit status 1."""
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
