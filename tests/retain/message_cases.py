"""Messages with a label: which may be sent to a customer, which may not, and of what kind the danger is.

Half (of `review` a third, of `reader_3` a fifth) are safe and look dangerous: words near those of a rule in texts that
a growth team would send. `kind` is the rule that a message breaks, or the one that it looks like breaking. Labels
follow from what a reader would understand, not from what the rules find. `dev` is what the rules are improved on, and
for a case of `held_out` no rule was ever changed. One author, who had read the rules, wrote these two parts and then
the rules, so held_out tells of new texts by the same hand and is an upper bound for anybody else's. `review` is by two
others and `reader_3` by one more: the rules were mended with both in view, so neither tells how new texts fare. Where
such a reader came upon a word that a case of held_out has as well ("be quick", "we swear"), the mended rules find that
case too. message_cases.jsonl holds them, a line each.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """`offer` in percent, `months` how long it runs: what is offered where the message is judged."""

    part: str  # dev, held_out, review or reader_3
    unsafe: bool
    kind: str
    text: str
    why: str
    offer: int
    months: int | None


CASES = tuple(
    Case(**json.loads(line)) for line in Path(__file__).with_name("message_cases.jsonl").read_text().splitlines()
)
