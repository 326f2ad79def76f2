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
_TABLES = ("numpy", "pyarrow")
_MODELS = ("numpy", "pandas", "pyarrow", "scikit-learn", "xgboost")

_TEXT = ("numpy", "pyarrow")
_LANGUAGE = ("numpy", "peft", "pyarrow", "safetensors", "tokenizers", "torch", "transformers")
_TRAINERS = (*_LANGUAGE, "accelerate", "bitsandbytes", "datasets", "trl")


def _language(threads: int) -> Resources:
    """One thread where two trainings run side by side, two where one runs alone."""
    return Resources(threads=threads, memory_gb=8.0, gpu=True)


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
        name="dialogues",
        entry="tasks.data.dialogues:run",
        config="tasks.config:DialoguesConfig",
        inputs=(),
        image="tabular",
        resources=_TABULAR,
        libraries=_TEXT,
        source=True,
    ),
    Stage(
        name="preferences",
        entry="tasks.data.preferences:run",
        config="tasks.config:PreferencesConfig",
        inputs=(),
        image="tabular",
        resources=_TABULAR,
        libraries=_TEXT,
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
        name="prompts",
        entry="tasks.rlhf.prompts:run",
        config="tasks.config:PromptsConfig",
        inputs=("customers", "risk"),
        image="tabular",
        resources=_TABULAR,
        libraries=_TEXT,
    ),
    Stage(
        name="base",
        entry="tasks.rlhf.base:run",
        config="tasks.config:BaseConfig",
        inputs=("dialogues", "prompts"),
        image="gpu",
        resources=_language(threads=2),
        libraries=(*_LANGUAGE, "gguf"),
        source=True,
    ),
    Stage(
        name="sft",
        entry="tasks.rlhf.sft:run",
        config="tasks.config:SftConfig",
        inputs=("dialogues", "base", "prompts"),
        image="gpu",
        resources=_language(threads=1),
        libraries=_TRAINERS,
    ),
    Stage(
        name="rm",
        entry="tasks.rlhf.rm:run",
        config="tasks.config:RewardModelConfig",
        inputs=("preferences", "base", "prompts"),
        image="gpu",
        resources=_language(threads=1),
        libraries=_TRAINERS,
    ),
    Stage(
        name="judge",
        entry="tasks.rlhf.judge:run",
        config="tasks.config:JudgeConfig",
        inputs=("preferences", "base", "prompts"),
        image="gpu",
        resources=_language(threads=1),
        libraries=_TRAINERS,
    ),
    Stage(
        name="ppo_text",
        entry="tasks.rlhf.ppo_text:run",
        config="tasks.config:TextPpoConfig",
        inputs=("base", "prompts", "sft", "rm"),
        image="gpu",
        resources=_language(threads=2),
        libraries=(*_LANGUAGE, "bitsandbytes"),
    ),
    Stage(
        name="text_eval",
        entry="tasks.rlhf.text_eval:run",
        config="tasks.config:TextEvalConfig",
        inputs=("base", "prompts", "sft", "rm", "judge", "ppo_text"),
        image="gpu",
        resources=_language(threads=2),
        libraries=(*_LANGUAGE, "bitsandbytes"),
    ),
    Stage(
        name="messages",
        entry="tasks.rlhf.messages:run",
        config="tasks.config:MessagesConfig",
        inputs=("base", "prompts", "sft", "rm", "ppo_text"),
        image="gpu",
        resources=_language(threads=2),
        libraries=(*_LANGUAGE, "bitsandbytes", "symspellpy"),
    ),
    Stage(
        name="release",
        entry="tasks.release.release:run",
        config="tasks.config:ReleaseConfig",
        inputs=("customers", "risk", "accept", "decision", "sft", "rm", "text_eval", "messages"),
        image="tabular",
        resources=_TABULAR,
        libraries=("numpy", "pyarrow", "pydantic"),
    ),
)

STAGES: dict[str, Stage] = {stage.name: stage for stage in _ROWS}
