"""Which token sees which, by position and not by place: rows with gaps, prefixes and branches come out exact.

In: what is visible, and the positions of queries and keys. Out: the masks that a model's layers ask for.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

PLAIN_LAYERS = {"full_attention", "sliding_attention"}


def plain(model: Any) -> bool:
    """Whether every layer is attention that takes a mask as it is: no recurrent state, no chunks, no ALiBi."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or PLAIN_LAYERS)
    return kinds <= PLAIN_LAYERS and not getattr(config, "alibi", False)


def new_cache(model: Any) -> DynamicCache | None:
    """A cache that forgets nothing, as `masks` expects; None lets a model that is not plain make its own."""
    return DynamicCache() if plain(model) else None


def masks(model: Any, visible: Tensor, queries: Tensor, keys: Tensor) -> Tensor | dict[str, Tensor]:
    """Additive masks [rows, 1, queries, keys] from what is visible, bool [rows, queries, keys], and from positions."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    if kinds == PLAIN_LAYERS:
        near = _near(visible, queries, keys, window)
        return {"full_attention": _additive(model, visible), "sliding_attention": _additive(model, near)}
    return _additive(model, visible if kinds == {"full_attention"} else _near(visible, queries, keys, window))


def _near(visible: Tensor, queries: Tensor, keys: Tensor, window: int | None) -> Tensor:
    return visible if window is None else visible & (queries[:, :, None] - keys[:, None, :] < window)


def _additive(model: Any, visible: Tensor) -> Tensor:
    mask = torch.zeros(visible.shape, dtype=model.dtype, device=visible.device)
    return mask.masked_fill_(~visible, torch.finfo(model.dtype).min)[:, None]
