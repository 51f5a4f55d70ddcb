"""Talking to her, sharing her, comparing: all that is done with what the stages made."""

import logging

# On a CPU that multiplies bf16 bitsandbytes asks, imported, for a package that fetches compiled code: see SECURITY.md.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
