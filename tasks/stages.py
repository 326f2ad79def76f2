"""THE table of stages: what each is called, where its code is, what it reads and what it needs.

Entry points and config models are strings, so that reading the table imports no stage: orchestration plans a run
without loading a training library. The order is one in which they can run.
"""

from __future__ import annotations

from engine.stage import Resources, Stage

# One thread each: on two cores risk and accept then run side by side without slowing each other, and a thread count
# that is the same everywhere is part of why results are.
_TABULAR = Resources(threads=1, memory_gb=2.0, gpu=False)

# What a result depends on besides this repository. pyarrow wherever parquet is written: its encoder makes the bytes.
_TABLES = ("numpy", "pandas", "pandera", "pyarrow")
_MODELS = ("numpy", "pandas", "pyarrow", "scikit-learn", "xgboost")

_ROWS = (
    Stage(
        name="customers",
        entry="tasks.data.customers:run",
        config="tasks.config:TableConfig",
        inputs=(),
        image="tabular",
        resources=_TABULAR,
        libraries=_TABLES,
        source=True,
    ),
    Stage(
        name="campaigns",
        entry="tasks.data.campaigns:run",
        config="tasks.config:TableConfig",
        inputs=(),
        image="tabular",
        resources=_TABULAR,
        libraries=_TABLES,
        source=True,
    ),
    Stage(
        name="risk",
        entry="tasks.tabular.risk:run",
        config="tasks.config:RiskConfig",
        inputs=("customers",),
        image="tabular",
        resources=_TABULAR,
        libraries=_MODELS,
    ),
    Stage(
        name="accept",
        entry="tasks.tabular.accept:run",
        config="tasks.config:AcceptConfig",
        inputs=("campaigns",),
        image="tabular",
        resources=_TABULAR,
        libraries=_MODELS,
    ),
    Stage(
        name="backtest",
        entry="tasks.tabular.backtest:run",
        config="tasks.config:BacktestConfig",
        inputs=("campaigns",),
        image="tabular",
        resources=_TABULAR,
        libraries=_MODELS,
    ),
    Stage(
        name="decision",
        entry="tasks.decision.train:run",
        config="tasks.config:DecisionConfig",
        inputs=("customers", "risk", "accept"),
        image="tabular",
        resources=Resources(threads=2, memory_gb=2.0, gpu=False),
        libraries=("numpy", "pyarrow", "torch", "xgboost"),
    ),
    Stage(
        name="release",
        entry="tasks.release.release:run",
        config="tasks.config:ReleaseConfig",
        inputs=("customers", "risk", "accept", "decision"),
        image="tabular",
        resources=_TABULAR,
        libraries=("numpy", "pydantic"),
    ),
)

STAGES: dict[str, Stage] = {stage.name: stage for stage in _ROWS}
