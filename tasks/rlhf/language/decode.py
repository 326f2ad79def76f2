"""Sampling many replies at once: the cache is kept, prompts go in sorted by length, finished rows leave the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from tasks.rlhf.language.lm import Diverged, Lm


@dataclass(frozen=True)
class Sample:
    """`ids` end with the end token if `ended`; otherwise they were cut at the limit."""

    ids: list[int]
    text: str
    ended: bool


def generator(seed: Sequence[int]) -> torch.Generator:
    """Of whatever a draw is for: (seed, purpose, number, ...)."""
    state = np.random.SeedSequence(list(seed)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)


@torch.no_grad()
def sample(
    lm: Lm,
    prompts: Sequence[list[int]],
    limit: int,
    temperature: float,
    generator: torch.Generator,
    batch: int,
) -> list[Sample]:
    """One reply of at most `limit` tokens to each prompt, by the adapter in use; all draws are the generator's.

    Raises lm.Diverged where the model gives no probabilities.
    """
    replies: dict[int, list[int]] = {}  # place of the prompt -> ids
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        replies |= dict(zip(chosen, _batch(lm, [prompts[i] for i in chosen], limit, temperature, generator)))
    return [
        Sample(ids, lm.text.decode(ids), bool(ids) and ids[-1] == lm.text.eos)
        for ids in (replies[i] for i in range(len(prompts)))
    ]


def _batch(
    lm: Lm, prompts: list[list[int]], limit: int, temperature: float, generator: torch.Generator
) -> list[list[int]]:
    longest = max(map(len, prompts))
    ids = torch.tensor([[lm.text.pad] * (longest - len(p)) + p for p in prompts], device=lm.device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=lm.device)
    place = (mask.cumsum(1) - 1).clamp(min=0)
    cache = DynamicCache(config=lm.model.config)
    replies: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))
    for step in range(limit):
        out = lm.trunk(
            input_ids=ids, attention_mask=mask, position_ids=place, past_key_values=cache, use_cache=True
        ).last_hidden_state
        # Indexed to two dimensions first: a head on a sliced 3-D tensor copies its weights per row.
        drawn = _draw(lm.head(out[:, -1]).float() / temperature, generator)
        tokens = drawn.tolist()
        for row, token in zip(rows, tokens):
            replies[row].append(token)
        going = [i for i, token in enumerate(tokens) if token != lm.text.eos]
        if not going or step == limit - 1:
            break
        if len(going) < len(rows):
            kept = torch.tensor(going, device=lm.device)
            cache.batch_select_indices(kept)
            mask, place, drawn = mask[kept], place[kept], drawn[kept]
            rows = [rows[i] for i in going]
        ids = drawn[:, None]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        place = place[:, -1:] + 1
    return replies


def _draw(logits: Tensor, generator: torch.Generator) -> Tensor:
    """(b,) of (b, vocabulary). One uniform draw a row, on the CPU, so that a seed means the same on every device.

    Against torch.multinomial, which draws for every word, sampling SmolLM2 took a fifth less time.
    """
    reached = logits.softmax(-1).double().cumsum(-1)
    if not reached[:, -1].isfinite().all():  # a search among NaNs would draw the last word of all, again and again
        raise Diverged("the model gives no probabilities, as its logits are no finite numbers")
    drawn = torch.rand(len(logits), 1, generator=generator, dtype=torch.float64).to(logits.device) * reached[:, -1:]
    return torch.searchsorted(reached, drawn, right=True)[:, 0].clamp(max=logits.shape[1] - 1)
