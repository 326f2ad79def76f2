"""The parts of a stage that are finished: its checkpoints keep them, and a later attempt does not make them again.

For stages that work part by part (a fold, a search, a batch of replies) or that train one model after another. A
stage that is one long training keeps its own state, by Workspace.save.

The code here is no part of a stage's fingerprint, so a checkpoint may be of an older format of parts: the file's name
carries the format's number, and parts of another one are made again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.stage import Workspace

Figures = Callable[[Any], Mapping[str, float]]  # of what was made, by name

# [name, content] of each part that `make` made; one file, as there may be hundreds. Another content wants a new number.
PARTS_FILE = "parts-1.jsonl"


@dataclass
class Finished:
    """What the next checkpoint will hold, by file, and the step of the last one, which only grows.

    `total`: steps of the whole stage, for `make` to report.
    """

    step: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    total: int = 0
    _made: dict[str, bytes] = field(init=False)  # name -> line of PARTS_FILE

    def __post_init__(self) -> None:
        self._made = {json.loads(line)[0]: line for line in self.files.get(PARTS_FILE, b"").splitlines()}

    @classmethod
    def resume(cls, workspace: Workspace, total: int = 0) -> Finished:
        """What an earlier attempt of the same stage finished; nothing if there was none."""
        saved = workspace.checkpoints.load()
        return cls(total=total) if saved is None else cls(saved.step, dict(saved.files), total)

    def keep(self, workspace: Workspace, step: int, files: Mapping[str, bytes]) -> None:
        """Saves `files` besides those that are there already. Raises as Workspace.save does."""
        self.step = step
        self.files |= files
        workspace.save(step, self.files)

    def make(self, workspace: Workspace, name: str, make: Callable[[], Any], figures: Figures = lambda _: {}) -> Any:
        """What `make` returns, as JSON gives it back; kept under `name`, and made once. A part is a step.

        `figures` of the content are reported with the step. Raises ValueError for a content that holds a NaN or an
        infinity, and what Workspace.save raises.
        """
        if name not in self._made:
            content = make()
            self._made[name] = json.dumps([name, content], allow_nan=False).encode()
            self.keep(workspace, self.step + 1, {PARTS_FILE: b"\n".join(self._made.values())})
            workspace.progress(self.step, self.total, **figures(content))
        return json.loads(self._made[name])[1]

    def part(self, prefix: str) -> dict[str, bytes]:
        """The files whose names begin with `prefix`, without it."""
        return {name.removeprefix(prefix): data for name, data in self.files.items() if name.startswith(prefix)}

    def drop(self, prefix: str) -> None:
        """Leaves the files whose names begin with `prefix` out of the next checkpoint."""
        self.files = {name: data for name, data in self.files.items() if not name.startswith(prefix)}
