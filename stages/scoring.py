"""Token trees in, log-probabilities out: every text before a reply is computed once, whatever is asked about it.

A tree is a trunk (a conversation) and branches that leave it (other replies in the same place). What all trunks begin
with is computed once into a key-value cache; the rest stands in packed rows where each token sees its own past alone.
The head is applied where a token's probability is wanted, and nowhere else.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import DynamicCache

from stages.attention import masks, plain
from stages.conversation import IGNORE, common_start
from stages.head import label_losses

ROW_TOKENS = 512  # a packed row's size: the attention's cost grows with its square


class Branch(NamedTuple):
    """Tokens that follow the first `at` tokens of the trunk; all of them are scored."""

    at: int
    ids: Sequence[int]


class Tree(NamedTuple):
    """A trunk, what each of its positions must predict of itself (`IGNORE`: nothing), and its branches."""

    trunk: Sequence[int]
    labels: Sequence[int]
    branches: Sequence[Branch] = ()


class Scores(NamedTuple):
    """Natural log-probabilities: of each trunk position (0 where none was wanted), of each token of each branch."""

    trunk: list[float]
    branches: list[list[float]]


class Token(NamedTuple):
    """A token of a packed row: its position, its branch (0: the trunk), how much trunk it sees, what it must predict
    of itself, and the row index of the token before it."""

    id: int
    position: int
    branch: int
    sees: int
    label: int
    before: int


# --- the fast way


@torch.inference_mode()
def score(model: Any, trees: Sequence[Tree], title: str | None = None) -> list[Scores]:
    """The scores of all trees under a causal language model; `title` shows a progress bar."""
    if not trees:
        return []
    if not rows_agree(model):
        return [score_plainly(model, tree) for tree in tqdm(trees, desc=title, disable=quiet(title))]
    shared = shared_length(trees)
    prefix = Prefix(model, list(trees[0].trunk[:shared]))
    results: dict[int, Scores] = {}
    with tqdm(total=len(trees), desc=title, disable=quiet(title)) as progress:
        for row in rows(trees, shared):
            for index, result in zip(row, score_row(model, prefix, [trees[i] for i in row]), strict=True):
                results[index] = result
            progress.update(len(row))
    return [results[index] for index in range(len(trees))]


class Prefix:
    """The cached keys and values of the tokens that all trunks begin with."""

    def __init__(self, model: Any, ids: list[int]) -> None:
        self.length = len(ids)
        self._cache = None
        if ids:
            start = torch.tensor([ids], device=model.device)
            self._cache = model.get_decoder()(input_ids=start, cache=DynamicCache(), use_cache=True).cache

    def fork(self) -> Any:
        """A cache of one's own to write to; None for an empty prefix."""
        return copy.deepcopy(self._cache)


def shared_length(trees: Sequence[Tree]) -> int:
    """How many tokens all trunks begin with, less what predicts the first wanted token."""
    return max(0, min(common_start(tree.trunk for tree in trees), *(_first_wanted(tree) - 1 for tree in trees)))


def _first_wanted(tree: Tree) -> int:
    labelled = next((i for i, label in enumerate(tree.labels) if label != IGNORE), len(tree.trunk))
    return min([labelled, len(tree.trunk), *(branch.at for branch in tree.branches)])


def rows(trees: Sequence[Tree], shared: int) -> Iterator[list[int]]:
    """Indices of trees to pack together, the large ones first; a larger tree than a row has a row of its own."""
    sizes = [len(tree.trunk) - shared + sum(len(branch.ids) for branch in tree.branches) for tree in trees]
    row, used = [], 0
    for index in sorted(range(len(trees)), key=lambda i: (-sizes[i], i)):
        if row and used + sizes[index] > ROW_TOKENS:
            yield row
            row, used = [], 0
        row.append(index)
        used += sizes[index]
    yield row


def score_row(model: Any, prefix: Prefix, trees: Sequence[Tree]) -> list[Scores]:
    """The scores of the trees of one packed row."""
    owners, tokens = [], []
    for number, tree in enumerate(trees):
        of_tree = lay_out(tree, prefix.length, len(tokens))
        owners += [number] * len(of_tree)
        tokens += of_tree
    hidden = run_row(model, prefix, owners, tokens)
    wanted = [i for i, token in enumerate(tokens) if token.label != IGNORE]
    values = [0.0] * len(tokens)
    labels = torch.tensor([tokens[i].label for i in wanted], dtype=torch.long, device=hidden.device)
    losses = label_losses(model, hidden[[tokens[i].before for i in wanted]], labels)
    for i, loss in zip(wanted, losses.tolist(), strict=True):
        values[i] = -loss
    return list(_gather(trees, values, prefix.length))


def lay_out(tree: Tree, shared: int, offset: int) -> list[Token]:
    """The tokens of a tree from row index `offset` on: the trunk after the shared prefix, then branch after branch."""
    labels = (IGNORE, *tree.labels[1:])
    tokens = [
        Token(tree.trunk[i], i, 0, i + 1, labels[i], offset + i - shared - 1) for i in range(shared, len(tree.trunk))
    ]
    for number, branch in enumerate(tree.branches, 1):
        for i, token in enumerate(branch.ids):
            before = offset + (len(tokens) - 1 if i else branch.at - shared - 1)
            tokens.append(Token(token, branch.at + i, number, branch.at, token, before))
    return tokens


def run_row(model: Any, prefix: Prefix, owners: Sequence[int], tokens: Sequence[Token]) -> Tensor:
    """The last hidden states of a packed row, [tokens, width]."""
    owner = torch.tensor(owners, device=model.device)
    columns = [torch.tensor(column, device=model.device) for column in zip(*tokens, strict=True)]
    ids, position, branch, sees = columns[:4]
    of_trunk = (branch == 0)[None, :] & (position[None, :] < sees[:, None])
    of_branch = (branch[:, None] == branch[None, :]) & (position[None, :] <= position[:, None])
    visible = (owner[:, None] == owner[None, :]) & (of_trunk | of_branch)
    visible = torch.cat([visible.new_ones(len(tokens), prefix.length), visible], dim=1)
    keys = torch.cat([torch.arange(prefix.length, device=model.device), position])
    output = model.get_decoder()(
        input_ids=ids[None],
        position_ids=position[None],
        attention_mask=masks(model, visible[None], position[None], keys[None]),
        cache=prefix.fork(),
        use_cache=prefix.length > 0,
    )
    return output.last_hidden_state[0]


def _gather(trees: Sequence[Tree], values: list[float], shared: int) -> Iterator[Scores]:
    start = 0
    for tree in trees:
        end = start + len(tree.trunk) - shared
        trunk, branches = [0.0] * shared + values[start:end], []
        for branch in tree.branches:
            branches.append(values[end : end + len(branch.ids)])
            end += len(branch.ids)
        yield Scores(trunk, branches)
        start = end


# --- the plain way


def score_plainly(model: Any, tree: Tree) -> Scores:
    """The same, one forward pass a sequence: for a model whose layers look beyond an attention mask."""
    trunk = _plain(model, tree.trunk, (IGNORE, *tree.labels[1:]))
    branches = []
    for at, ids in tree.branches:
        whole = [*tree.trunk[:at], *ids]
        branches.append(_plain(model, whole, [IGNORE] * at + list(ids))[at:])
    return Scores(trunk, branches)


@torch.inference_mode()
def _plain(model: Any, ids: Sequence[int], labels: Sequence[int]) -> list[float]:
    wanted = [i for i, label in enumerate(labels) if label != IGNORE]
    values = [0.0] * len(ids)
    if wanted:
        logits = model(input_ids=torch.tensor([list(ids)], device=model.device), use_cache=False).logits[0].float()
        log_p = logits[[i - 1 for i in wanted]].log_softmax(-1)
        for row, i in enumerate(wanted):
            values[i] = float(log_p[row, labels[i]])
    return values


@lru_cache(maxsize=1)
@torch.inference_mode()
def rows_agree(model: Any) -> bool:
    """Whether packed rows give this model what plain passes give it; tried on a small tree."""
    if not plain(model):
        return False
    size = model.get_input_embeddings().weight.shape[0]
    ids = [(7 * i * i + 11 * i + 3) % size for i in range(12)]
    forked = Tree(ids, [IGNORE] * 6 + ids[6:], (Branch(8, ids[2:5]), Branch(7, ids[4:6])))
    trees = [forked, Tree(ids[:9], [IGNORE] * 5 + ids[5:9])]
    try:
        packed = score_row(model, Prefix(model, ids[:4]), trees)
    except (NotImplementedError, ValueError, TypeError, AttributeError, RuntimeError):
        return False
    allowed = 0.05 if model.dtype.itemsize == 2 else 1e-3
    mine, its = (torch.tensor(_flat(scores)) for scores in (packed, [score_plainly(model, tree) for tree in trees]))
    return bool((mine - its).norm() <= allowed * its.norm())


def _flat(scores: Iterable[Scores]) -> list[float]:
    return [value for result in scores for part in (result.trunk, *result.branches) for value in part]


def quiet(title: str | None) -> bool | None:
    """What tqdm calls `disable`: a progress bar with a title shows on a terminal, any other nowhere."""
    return True if title is None else None
