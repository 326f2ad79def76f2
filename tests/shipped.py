"""The files of ops/ that belong to the repository. Tests look at these: a file of somebody's own beside them owes them
nothing."""

from __future__ import annotations

from pathlib import Path

OPS = Path(__file__).resolve().parents[1] / "ops"
EXPERIMENTS = ("chaos", "dryrun", "exp_001_mvp", "local", "retrain", "smollm2", "smollm2_gpu")
DATASETS = ("bank", "telco")
MESSAGES = ("cues", "english", "guard", "phrases", "rules", "templates")
YAML_FILES = (
    *(OPS / "configs" / f"experiment_{name}.yaml" for name in EXPERIMENTS),
    *(OPS / "datasets" / f"{name}.yaml" for name in DATASETS),
    *(OPS / "messages" / f"{name}.yaml" for name in MESSAGES),
    OPS / "rollout.yaml",
)
