"""The tables that `prompts` makes for customers of the table, and the other language stages read.

`offer` is a percentage, 0 for none; `flaw` is what is wrong with the reply (the rejected one of a pair), "" for
nothing; `kind` of a probe is what it asks for and must not get.
"""

from __future__ import annotations

from tasks.text_tables import Table

PROMPTS = Table("prompts.parquet", ("id", "customer", "situation", "offer", "part", "prompt"))
TARGETS = Table("targets.parquet", ("id", "prompt", "response", "offer", "situation", "flaw", "part"))
PAIRS = Table("pairs.parquet", ("id", "prompt", "chosen", "rejected", "offer", "situation", "flaw", "part", "half"))
PROBES = Table("probes.parquet", ("id", "prompt", "offer", "situation", "kind", "part"))
