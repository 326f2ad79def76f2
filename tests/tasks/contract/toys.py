"""A toy of every stage of the table: the smallest config and inputs with which it does all that it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from engine.stage import Metrics, Workspace
from tasks.config import DialoguesConfig, PreferencesConfig
from tasks.data import campaigns, customers
from tasks.rlhf import rm
from tasks.stages import STAGES
from tasks.tabular import accept, risk
from tests import releases
from tests.tasks.conftest import make_workspace, table_config
from tests.tasks.data import texts
from tests.tasks.decision import conftest as decision
from tests.tasks.decision.test_train import small_config
from tests.tasks.rlhf import test_base, test_judge, test_messages, test_ppo_text, test_prompts, test_text_eval
from tests.tasks.rlhf.conftest import make_base
from tests.tasks.rlhf.trainable import rm_config, sft_config, write_inputs
from tests.tasks.tabular import test_accept, test_backtest, test_risk

Inputs = dict[str, Path]


@dataclass(frozen=True)
class Toy:
    """`places`: at how many of its checkpoints, drawn by seed, it is interrupted; None: at all. `between`: it looks
    whether it has to stop between its parts alone, and not in every layer of a model. `prepare` is called before every
    run."""

    config: Any
    inputs: Inputs
    places: int | None = None
    between: bool = True
    prepare: Callable[[pytest.MonkeyPatch], None] = lambda _: None

    def run(self, stage: str, workspace: Workspace) -> Metrics:
        module, _, function = STAGES[stage].entry.partition(":")
        metrics: Metrics = getattr(import_module(module), function)(self.config, self.inputs, workspace)
        return metrics


class Toys:
    """Toys by stage, each made when it is first asked for, below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.made: dict[str, Toy] = {}

    def __getitem__(self, stage: str) -> Toy:
        if stage not in self.made:
            self.made[stage] = getattr(self, stage)()
        return self.made[stage]

    def _output(self, stage: str, run: Callable[..., Metrics], config: Any, inputs: Inputs) -> Path:
        folder = self.root / "outputs" / stage
        if not folder.exists():
            run(config, inputs, make_workspace(folder))
        return folder

    def _customers(self) -> Path:
        return self._output("customers", customers.run, table_config("telco", 400), {})

    def _campaigns(self) -> Path:
        return self._output("campaigns", campaigns.run, table_config("bank", 1500), {})

    def _base(self) -> Path:
        folder = self.root / "base"
        return folder if folder.exists() else make_base(folder)

    # -- tables and texts

    def customers(self) -> Toy:
        return Toy(table_config("telco", 400), {})

    def campaigns(self) -> Toy:
        return Toy(table_config("bank", 400), {})

    def dialogues(self) -> Toy:
        inputs = texts.write(self.root / "dialogues", texts.pairs(300))
        return Toy(texts.text_config(DialoguesConfig, "OASST1"), inputs)

    def preferences(self) -> Toy:
        records = [
            {"source": "o", "prompt": f"other {k}", "chosen": f"good {k}", "rejected": f"bad {k}"} for k in range(60)
        ]
        inputs = texts.write(self.root / "preferences", records)
        return Toy(texts.text_config(PreferencesConfig, "HH-RLHF"), inputs)

    # -- models of tables, and the decision

    def risk(self) -> Toy:
        return Toy(test_risk.CONFIG, {"customers": self._customers()})

    def accept(self) -> Toy:
        return Toy(test_accept.CONFIG, {"campaigns": self._campaigns()})

    def backtest(self) -> Toy:
        return Toy(test_backtest.CONFIG, {"campaigns": self._campaigns()})

    def decision(self) -> Toy:
        inputs = {"customers": self._customers(), "campaigns": self._campaigns()}
        scored = {
            "customers": inputs["customers"],
            "risk": self._output("risk", risk.run, decision.RISK, inputs),
            "accept": self._output("accept", accept.run, decision.ACCEPT, inputs),
        }
        decision.fill_cells(scored["accept"] / "bridge.json")
        return Toy(small_config(seeds=1, evaluation={"years": 1}), scored, places=2)

    # -- language

    def prompts(self) -> Toy:
        inputs = {"customers": self._customers()}
        inputs["risk"] = self._output("risk", risk.run, decision.RISK, inputs)
        return Toy(test_prompts.less(), inputs)

    def base(self) -> Toy:
        return Toy(test_base.base_config(), test_base.write_texts(self.root / "texts"))

    def sft(self) -> Toy:
        return Toy(sft_config(), write_inputs(self.root / "sft", self._base()), 3, between=False)

    def rm(self) -> Toy:
        inputs = write_inputs(self.root / "rm", self._base())
        # Else all scores of a model would be kept at once.
        return Toy(rm_config(), inputs, 5, False, lambda patch: patch.setattr(rm, "BLOCK", 1))

    def judge(self) -> Toy:
        return Toy(test_judge.config(), test_judge.judge_inputs(self.root / "judge", self._base()), 3, between=False)

    def ppo_text(self) -> Toy:
        return Toy(test_ppo_text.config(), test_ppo_text.ppo_inputs(self.root / "ppo_text"), 3, between=False)

    def text_eval(self) -> Toy:
        inputs = test_text_eval.eval_inputs(self.root / "text_eval", self._base())
        return Toy(test_text_eval.config(batch=16), inputs, between=False)

    def messages(self) -> Toy:
        inputs = test_messages.bank_inputs(self.root / "messages", self._base())
        # Random weights write nothing that is safe, so nothing would be scored.
        config = test_messages.config(candidates=12, batch=48)
        return Toy(config, inputs, between=False, prepare=test_messages.writes_by_prompt)

    def release(self) -> Toy:
        inputs = releases.inputs(self.root / "release", releases.dataset("telco"), releases.dataset("bank"))
        return Toy(releases.config(), inputs)
