"""How every command ends: 0, or 1 with one plain message on stderr, or Ctrl-C; and with DVC, if DVC is killed."""

import ctypes
import errno
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from stages.records import InputError

PARENT_DEATH_SIGNAL = 1  # prctl(2)
NO_ROOM = 2**20  # bytes
MORE_MEMORY = (
    "`python -m stages.train --plan` says which training fits: TRAIN_ACCUMULATION=4 in the environment takes\n"
    "a batch in four parts, `train.gradient_checkpointing: true` keeps less of each, `train.quantize: nf4` makes\n"
    "the base smaller; for all but a training, end what else is on the device"
)


def run(main: Callable[[], None]) -> None:
    """Call main() and end the process; what a user can cure becomes `error: …` and exit status 1."""
    end_with_dvc()
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        words = plainly(error)
        if words is None:
            raise
        print(f"error: {words}", file=sys.stderr)
        sys.exit(1)


def plainly(error: Exception) -> str | None:
    """What to tell the user; None for an error of our own."""
    if isinstance(error, InputError):
        return str(error)
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which data stages do without
        return f"the device is out of memory: {error}\nhint: {MORE_MEMORY}"
    if disk_is_full(error):
        return f"the disk is full: {error}\nhint: free some and run the same command again"
    return None


def disk_is_full(error: Exception) -> bool:
    """Also where a library says `iostream error` and no more: then the room that is left tells."""
    full = errno.ENOSPC, errno.EDQUOT, errno.EFBIG
    return getattr(error, "errno", None) in full or shutil.disk_usage(os.curdir).free < NO_ROOM


def end_with_dvc() -> None:
    """A stage whose DVC was killed would hold the device, and write into the next run's outputs."""
    if "DVC_STAGE" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if adopted():  # it was killed before this line
            os.kill(os.getpid(), signal.SIGKILL)


def adopted() -> bool:
    """Whether the parent is not who started this process: of another process group, or process 1 and not DVC."""
    parent, group = os.getppid(), os.getpgrp()
    leads = group == os.getpid()  # as each worker of torchrun does: no parent of its is of its group
    stranger = not leads and os.getpgid(parent) != group
    return stranger or (parent == 1 and not _is_dvc(parent))


def _is_dvc(process: int) -> bool:
    """In a container DVC may be process 1."""
    words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    return any(Path(os.fsdecode(word)).name == "dvc" for word in words)
