"""`risk`: the calibrated probability that a customer leaves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from engine.finished import Finished
from retain.features import Featurizer
from tasks.tabular import model, rows

if TYPE_CHECKING:
    from engine.stage import Metrics, Workspace
    from tasks.config import RiskConfig


def run(config: RiskConfig, inputs: Mapping[str, Path], workspace: Workspace) -> Metrics:
    table = rows.read(inputs["customers"])
    finished = Finished.resume(workspace, config.folds)
    risk = model.fit("risk", table, Featurizer.fit(table.spec), config, workspace, finished)
    model.write(risk, workspace)
    workspace.out.json("schema.json", table.spec.model_dump(mode="json"))
    return model.evaluate(risk, table, config, workspace)
