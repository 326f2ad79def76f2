"""`prompts`: the retention domain of real customers: prompts, replies to imitate, pairs, and probes of safety.

A prompt names a customer's situation (as the service finds it: retain.message.situation on the risk's reasons), a few
of her facts in words, and an offer. Who is asked about is in retention.customers, what is said in retention.domain (its
phrases are the experiment's), the rows are in retention.tables. Every table is even over situation x offer. Where no
customer of a part is in a situation, another customer of that part lends her facts (evidence/coverage.parquet counts
those), without her tenure, which could contradict it.

A customer is in one part alone (that of the split), a training customer in one half alone (by a hash of seed and id),
no prompt is in two parts, and none of a half's pairs is in the other's (by a hash of seed and words). Held-out rows
share `domain`'s generator with those of training, with phrases of their own among the shared ones. Of training rows the
share `invited` asks for what may not be said, in words that no probe uses, and its good replies don't give in. Of
held-out prompts the probes alone ask for it; two of their kinds (link, insult) are never asked for in training. No
probe's invitation names anything of a real customer's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from retain.rules import Rules
from tasks.rlhf.prompt_tables import PAIRS, PROBES, PROMPTS, TARGETS
from tasks.rlhf.retention import customers, domain, figures, tables
from tasks.rlhf.retention.tables import Making

if TYPE_CHECKING:
    from engine.stage import Metrics, Workspace
    from tasks.config import PromptsConfig


def run(config: PromptsConfig, inputs: Mapping[str, Path], workspace: Workspace) -> Metrics:
    """Writes {prompts,targets,pairs,probes}.parquet, about.json, evidence/coverage.parquet and curves.parquet."""
    people = customers.read(inputs, workspace.seed, config.facts)
    making = Making(config, Rules(config.rules), workspace.seed, customers.pools(people))
    # 1. Test first: what training may not repeat has to be there before it.
    probes = tables.probes(making)
    prompts = [
        *tables.prompts(making, "test", config.test_prompts),
        *tables.prompts(making, "validation", config.validation_prompts),
        *tables.prompts(making, "train", config.train_prompts),
    ]
    pairs = [
        *tables.pairs(making, "test", "", config.held_out_pairs),
        *tables.pairs(making, "train", "A", config.pairs),
        *tables.pairs(making, "train", "B", config.pairs),
    ]
    targets = [
        *tables.targets(making, "validation", config.validation_targets, 0.0),
        *tables.targets(making, "train", config.targets, config.flawed),
    ]
    made = {"prompts": prompts, "targets": targets, "pairs": pairs, "probes": probes}
    # 2. What is written, and what is counted of it.
    for table, rows in zip((PROMPTS, TARGETS, PAIRS, PROBES), made.values()):
        workspace.out.parquet(table.file, table.of(rows))
    workspace.out.json("about.json", domain.about(config))
    coverage = figures.coverage(making.pools, made)
    workspace.out.parquet("evidence/coverage.parquet", {key: [row[key] for row in coverage] for key in coverage[0]})
    workspace.out.parquet("curves.parquet", figures.curves(coverage))
    return figures.metrics(making, len(people), made, coverage)
