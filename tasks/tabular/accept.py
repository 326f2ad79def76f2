"""`accept`: the calibrated probability that an offer is accepted, and the bridge that carries it to customers.

A live customer has no columns of the bank's. So a second model, on columns that a customer could have too, scores the
campaign's training rows out of fold; its mean in each cell (senior x partner x paperless) is what a customer of that
cell is taken to accept with. The mean, not a drawn donor: 43 % of the variance of matched scores was the draw.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import DataError
from engine.finished import Finished
from retain.dataset import bridge_roles, cell
from retain.features import Featurizer
from tasks.tabular import measures, model, rows, streams

if TYPE_CHECKING:
    from engine.stage import Metrics, Workspace
    from tasks.config import AcceptConfig


def run(config: AcceptConfig, inputs: Mapping[str, Path], workspace: Workspace) -> Metrics:
    table = rows.read(inputs["campaigns"])
    try:
        narrow = Featurizer.fit(table.spec, config.bridge_columns)
    except ValueError as error:
        raise DataError(f"accept.bridge_columns: {error}") from None
    finished = Finished.resume(workspace, 2 * config.folds)
    full = model.fit("accept", table, Featurizer.fit(table.spec), config, workspace, finished)
    common = model.fit("bridge", table, narrow, config, workspace, finished)
    model.write(full, workspace)
    model.write(common, workspace, "bridge/")
    workspace.out.json("schema.json", table.spec.model_dump(mode="json"))
    workspace.out.json("bridge.json", bridge(table, common))
    test = table.part == "test"
    rng = np.random.default_rng([workspace.seed, streams.BRIDGE_INTERVALS])
    narrowed = measures.measure(
        table.y[test], common.score[test], config.ece_bins, config.bootstrap, config.chance_draws, rng
    )
    metrics = model.evaluate(full, table, config, workspace)
    return {**metrics, "bridge_auc": narrowed["auc"], "bridge_ece": narrowed["ece"]}


def bridge(table: rows.Rows, common: model.Model) -> dict[str, Any]:
    """cell -> mean and sd of the calibrated out-of-fold score, and the training rows behind it.

    A cell that no row is in has the overall mean and 0 rows. A cell of few rows is no better known than they are:
    in exp_001_mvp the senior, single and paper one (1,0,0) rests on 27 calls with 4 yes (.19 by the mean score; by
    the calls alone .06 to .32 with 95 % confidence), the next smallest ones on 109 and 144, the rest on 466 or more.
    """
    roles = bridge_roles(table.spec)
    train = np.flatnonzero(table.train())
    wanted = [part.column for part in table.spec.bridge]
    columns = {name: table.columns[name].tolist() for name in wanted}
    scores: dict[str, list[float]] = {_name(index, len(roles)): [] for index in range(2 ** len(roles))}
    for row in train.tolist():
        place = cell(table.spec, {name: columns[name][row] for name in wanted})
        scores[place].append(float(common.score[row]))
    overall = float(common.score[train].mean())
    cells = {
        place: {
            "acceptance": float(np.mean(found)) if found else overall,
            "rows": len(found),
            "sd": float(np.std(found)) if found else 0.0,
        }
        for place, found in scores.items()
    }
    return {"roles": list(roles), "cells": cells, "overall": overall}


def _name(index: int, roles: int) -> str:
    return ",".join(format(index, f"0{roles}b")) if roles else ""
