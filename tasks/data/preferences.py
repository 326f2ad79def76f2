"""`preferences`: prompts with a reply that was chosen and one that was rejected, in two halves by prompt.

Read are HH-RLHF (Bai et al. 2022) as it is published and as {prompt, chosen, rejected}, and SHP-2 (Ethayarajh et al.
2022). Half A is for the reward models that train and pick, half B for the one that judges in the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from tasks.data import corpus, synthetic_text
from tasks.data.corpus import ASSISTANT, HUMAN, Broken, Pair, Reading, Record, Unusable
from tasks.public_tables import PREFERENCES

if TYPE_CHECKING:
    from engine.stage import Metrics, Workspace
    from tasks.config import PreferencesConfig, TextFile


def run(config: PreferencesConfig, inputs: Mapping[str, Path], workspace: Workspace) -> Metrics:
    """Writes the table public_tables.PREFERENCES, catalog.json and curves.parquet."""

    def reader(file: TextFile) -> Preferences:
        return Preferences(file, config.min_vote_ratio)

    replies = ("chosen", "rejected")
    return corpus.run(
        config, inputs, workspace, reader, _made_up, PREFERENCES, replies, max_pairs_a_post=config.max_pairs_a_post
    )


def _made_up(seed: int) -> Iterator[Pair]:
    for prompt, chosen, rejected in synthetic_text.preferences(seed):
        yield Pair("synthetic", prompt, prompt, (chosen, rejected))


@dataclass
class Preferences:
    """The pairs of one file. Of two replies that got votes, one has at least `min_vote_ratio` times the other's."""

    file: TextFile
    min_vote_ratio: float

    def pairs(self, record: Record) -> Iterable[Pair]:
        if "human_ref_A" in record:
            return [self._voted(record)]
        if "chosen" in record and "rejected" in record:
            return [self._compared(record)]
        raise Broken(f"no preference: has {corpus.keys(record)}")

    def rest(self, reading: Reading) -> Iterable[Pair]:
        return ()

    def _voted(self, record: Record) -> Pair:
        replies = corpus.text(record, "human_ref_A"), corpus.text(record, "human_ref_B")
        post, prompt = corpus.text(record, "post_id"), corpus.text(record, "history")
        label = record.get("labels")
        if label not in (0, 1):
            raise Broken("'labels' is neither 0 nor 1")
        if corpus.number(record, "score_ratio") < self.min_vote_ratio:
            raise Unusable("votes_too_close")
        domain = str(record.get("domain", "")).rpartition("_")[0] or str(record.get("domain", ""))
        # 1 says that A got more votes.
        return Pair(f"{self.file.dataset}/{domain}", prompt, prompt, replies if label == 1 else replies[::-1], post)

    def _compared(self, record: Record) -> Pair:
        chosen, rejected = corpus.text(record, "chosen"), corpus.text(record, "rejected")
        if "prompt" in record:
            prompt = corpus.text(record, "prompt")
        else:
            prompt, chosen, rejected = _split(chosen, rejected)
        if HUMAN in chosen or HUMAN in rejected:
            raise Unusable("ends_with_the_human")
        prompt = _without_marks(prompt)
        source = record.get("source")
        if not isinstance(source, str):
            source = f"hh-rlhf/{PurePosixPath(self.file.names[0]).parent.name or self.file.dataset}"
        return Pair(source, prompt, corpus.first_turn(prompt), (chosen, rejected))


def _split(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Prompt and replies of two transcripts that differ in their last turn alone."""
    prompt, mark, reply = chosen.rpartition(ASSISTANT)
    other, _, worse = rejected.rpartition(ASSISTANT)
    if not mark or not prompt.lstrip().startswith(HUMAN.strip()):
        raise Broken("'chosen' is no transcript of Human and Assistant")
    if prompt != other:
        raise Unusable("without_common_prompt")
    return prompt, reply, worse


def _without_marks(prompt: str) -> str:
    """Turns as they are kept: without the mark of the first one and of the reply to come."""
    return prompt.strip().removeprefix(HUMAN.strip()).removesuffix(ASSISTANT.strip()).strip()
