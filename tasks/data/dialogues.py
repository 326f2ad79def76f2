"""`dialogues`: prompts and replies, to be fine-tuned on.

Read are messages of OASST1's public export (Koepf et al. 2023), ready pairs {prompt, response}, and dialogues of the
Schema-Guided Dialogue dataset (Rastogi et al. 2020).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.data import corpus, synthetic_text
from tasks.data.corpus import Broken, Pair, Reading, Record, Unusable
from tasks.public_tables import DIALOGUES

if TYPE_CHECKING:
    from engine.stage import Metrics, Workspace
    from tasks.config import DialoguesConfig, TextFile

EXPORTED = "ready_for_export"  # the state of a tree that its reviewers have finished
CONTEXT = 2  # turns of an SGD dialogue before the one that is answered
BLOCK = 16  # ready pairs in a row that share a part: a follow-up stands behind what it follows, and nothing else tells


def run(config: DialoguesConfig, inputs: Mapping[str, Path], workspace: Workspace) -> Metrics:
    """Writes the table public_tables.DIALOGUES, catalog.json and curves.parquet."""
    return corpus.run(config, inputs, workspace, Dialogues, _made_up, DIALOGUES, ["response"])


def _made_up(seed: int) -> Iterator[Pair]:
    for prompt, reply in synthetic_text.dialogues(seed):
        yield Pair("synthetic", prompt, prompt, (reply,))


@dataclass(frozen=True)
class _Message:
    id: str
    parent: str | None
    text: str
    rank: float


@dataclass
class Dialogues:
    """The pairs of one file."""

    file: TextFile
    prompts: dict[str, _Message] = field(default_factory=dict)
    replies: dict[str, _Message] = field(default_factory=dict)
    ready: int = 0

    def pairs(self, record: Record) -> Iterable[Pair]:
        if "message_id" in record:
            self._keep(record)
            return ()
        if "turns" in record:
            return self._turns(record["turns"])
        if "prompt" in record and "response" in record:
            prompt, reply = corpus.text(record, "prompt"), corpus.text(record, "response")
            block = f"{self.file.names[0]}: {self.ready // BLOCK}"
            self.ready += 1
            return [Pair(self.file.dataset, prompt, block, (reply,))]
        raise Broken(f"neither message nor pair nor dialogue: has {corpus.keys(record)}")

    def rest(self, reading: Reading) -> Iterable[Pair]:
        """Every prompt of the trees with its best reply, in the file's order."""
        answers: dict[str, list[_Message]] = {}
        for reply in self.replies.values():
            answers.setdefault(str(reply.parent), []).append(reply)
        for prompt in self.prompts.values():
            turns = self._turns_to(prompt)
            if prompt.id not in answers:
                reading.dropped["without_reply"] += 1
            elif turns is None:
                reading.dropped["without_thread"] += 1
            else:
                best = min(answers[prompt.id], key=lambda reply: (reply.rank, reply.id))
                yield Pair(self.file.dataset, corpus.thread(turns), turns[0], (best.text,))

    def _keep(self, record: Record) -> None:
        role, parent = corpus.text(record, "role"), record.get("parent_id")
        if role not in ("prompter", "assistant"):
            raise Broken(f"role {role[:20]!r} is neither prompter nor assistant")
        if record.get("lang") != "en":
            raise Unusable("not_english")
        if record.get("deleted") or record.get("review_result") is False:
            raise Unusable("deleted_or_refused")
        if record.get("synthetic"):
            raise Unusable("written_by_a_model")
        # The larger export has trees besides that were given up, are spam, or never got a reply.
        if record.get("tree_state") not in (None, EXPORTED):
            raise Unusable("unfinished_tree")
        message = _Message(
            id=corpus.text(record, "message_id"),
            parent=None if parent is None else str(parent),
            text=corpus.text(record, "text"),
            # Replies that nobody ranked come after those that are: the last of them is better than chance at least.
            rank=float("inf") if record.get("rank") is None else corpus.number(record, "rank"),
        )
        (self.prompts if role == "prompter" else self.replies)[message.id] = message

    def _turns_to(self, message: _Message) -> list[str] | None:
        """The thread from its root to the message; None where a message of it is not there."""
        turns, seen = [message.text], {message.id}
        while message.parent is not None:
            above = (self.replies if len(turns) % 2 else self.prompts).get(message.parent)
            if above is None or above.id in seen:
                return None
            message = above
            seen.add(message.id)
            turns.append(message.text)
        return turns[::-1] if len(turns) % 2 else None

    def _turns(self, turns: Any) -> Iterator[Pair]:
        """Each turn of the system as the reply to the user's before it."""
        speakers, texts = _speakers_and_texts(turns)
        for reply in range(1, len(texts)):
            if speakers[reply - 1 : reply + 1] != ["user", "system"]:
                continue
            begin = max(0, reply - 1 - CONTEXT)
            # A prompt begins with the human's turn and goes on by turns.
            if speakers[begin:reply] != ["user", "system", "user"][begin - reply :]:
                begin = reply - 1
            yield Pair(self.file.dataset, corpus.thread(texts[begin:reply]), texts[0], (texts[reply],))


def _speakers_and_texts(turns: Any) -> tuple[list[str], list[str]]:
    if not isinstance(turns, list):
        raise Broken("'turns' is no list")
    if len(turns) < 2:
        raise Unusable("empty")
    for turn in turns:
        if not (isinstance(turn, list) and len(turn) == 2 and isinstance(turn[0], str) and isinstance(turn[1], str)):
            raise Broken("a turn is no [speaker, text]")
    return [speaker for speaker, _ in turns], [text for _, text in turns]
