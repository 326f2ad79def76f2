"""A data folder as exp_001_mvp wants it: files of the public names and schemas, made of what RETAIN_DATA_DIR holds.

The schemas are the publishers', to the last key; the words are not: SHP-2's posts are single turns of HH-RLHF, and most
of OASST1's trees are pairs whose place in a tree is lost. So what is trained on them proves that files are read.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

TABLES = ("Telco-Customer-Churn.csv", "bank-additional-full.csv")
OASST1 = "2023-04-12_oasst_ready.messages.jsonl"
# Source of the pairs -> the file that they become.
SHP = {
    "hh-rlhf/helpful-online/test": "explainlikeimfive",
    "hh-rlhf/helpful-rejection-sampled/test": "legaladvice",
}
HH = {"hh-rlhf/helpful-base/test": "helpful-base", "hh-rlhf/harmless-base/test": "harmless-base"}
HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
TEXTS = ("oasst1-en-sft-train.jsonl", "oasst1-en-validation-messages.jsonl", "hh-rlhf-pairs.jsonl")
TEXTS_MADE = (
    OASST1,
    *(f"SHP-2/reddit/{name}/train.json" for name in SHP.values()),
    *(f"hh-rlhf/{name}/train.jsonl" for name in HH.values()),
)


def lacking(data: Path) -> list[str]:
    """What the folder would have to hold besides."""
    return [name for name in (*TABLES, *TEXTS) if _path(data, name) is None]


def write(folder: Path, data: Path) -> None:
    """Fills the empty `folder` from `data`."""
    for name in TABLES:
        table = _path(data, name)
        assert table is not None
        (folder / table.name).symlink_to(table)
    trees = (message for k, row in enumerate(_rows(data, TEXTS[0])) for message in tree(k, row))
    _write(folder / OASST1, [*_rows(data, TEXTS[1]), *trees])
    pairs = list(_rows(data, TEXTS[2]))
    for source, name in SHP.items():
        alone = [row for row in pairs if row["source"] == source and row["prompt"].count(HUMAN) == 1]
        _write(folder / f"SHP-2/reddit/{name}/train.json", [voted(k, row, name) for k, row in enumerate(alone)])
    for source, name in HH.items():
        of_it = (transcripts(row) for row in pairs if row["source"] == source)
        _write(folder / f"hh-rlhf/{name}/train.jsonl", of_it)


def tree(k: int, row: dict[str, Any]) -> list[dict[str, Any]]:
    """A prompt and its reply as messages of OASST1's export."""
    root, reply = (f"00000000-0000-4000-{place:04x}-{k:012x}" for place in (0, 1))
    return [
        _message(root, None, root, "prompter", row["prompt"]),
        _message(reply, root, root, "assistant", row["response"]),
    ]


def _message(name: str, parent: str | None, root: str, role: str, text: str) -> dict[str, Any]:
    return {
        "message_id": name,
        "parent_id": parent,
        "user_id": "00000000-0000-4000-8000-000000000000",
        "created_date": "2023-03-01T12:00:00.000000+00:00",
        "text": text,
        "role": role,
        "lang": "en",
        "review_count": 3,
        "review_result": True,
        "deleted": False,
        "rank": None if parent is None else 0,
        "synthetic": False,
        "model_name": None,
        "detoxify": None,
        "message_tree_id": root,
        "tree_state": "ready_for_export",
        "emojis": None,
        "labels": None,
    }


def voted(k: int, row: dict[str, Any], domain: str) -> dict[str, Any]:
    """A pair as two comments on a post. Every other one has the chosen reply as B; a tenth of the votes are close."""
    chosen_first = k % 2 == 0
    replies = (row["chosen"], row["rejected"]) if chosen_first else (row["rejected"], row["chosen"])
    votes = (6, 5) if k % 10 == 9 else (12, 4)
    scores = votes if chosen_first else votes[::-1]
    return {
        "post_id": f"{domain[:3]}{k}",
        "domain": f"{domain}_train",
        "upvote_ratio": 0.97,
        "history": row["prompt"].removeprefix(HUMAN).removesuffix(ASSISTANT).strip(),
        "c_root_id_A": f"a{k}",
        "c_root_id_B": f"b{k}",
        "created_at_utc_A": 1_600_000_000 + 60 * k,
        "created_at_utc_B": 1_600_000_030 + 60 * k,
        "score_A": scores[0],
        "score_B": scores[1],
        "human_ref_A": replies[0],
        "human_ref_B": replies[1],
        "labels": int(chosen_first),
        "metadata_A": "",
        "metadata_B": "",
        "seconds_difference": 30.0,
        "score_ratio": votes[0] / votes[1],
    }


def transcripts(row: dict[str, Any]) -> dict[str, Any]:
    """A pair as HH-RLHF has it: two whole transcripts."""
    return {name: f"{row['prompt']} {row[name]}" for name in ("chosen", "rejected")}


def _path(data: Path, name: str) -> Path | None:
    return next((path for path in (data / name, data / f"{name}.gz") if path.is_file()), None)


def _rows(data: Path, name: str) -> Iterator[dict[str, Any]]:
    path = _path(data, name)
    assert path is not None
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        for line in file:
            yield json.loads(line)


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
