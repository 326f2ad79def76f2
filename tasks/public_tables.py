"""The tables of public texts, which `dialogues` and `preferences` write and the language stages read.

`source` is the dataset that a row is from. Half A of the preferences is for the reward models that train and pick, half
B for the one that judges in the end.
"""

from __future__ import annotations

from tasks.text_tables import Table

DIALOGUES = Table("pairs.parquet", ("id", "source", "prompt", "response", "split"))
PREFERENCES = Table("pairs.parquet", ("id", "source", "prompt", "chosen", "rejected", "split", "half"))
