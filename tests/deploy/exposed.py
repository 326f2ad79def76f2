"""The metrics that there are."""

from __future__ import annotations

import re

from engine.fingerprint import ROOT
from serve.metrics import Metrics, WalletGauges
from serve.periods import Standing
from serve.trial_metrics import RolloutGauges


def exposed() -> set[str]:
    """By the service and by the controller, without what Prometheus adds to their names."""
    metrics = Metrics()
    RolloutGauges(metrics.registry)
    names = {metric.name for metric in metrics.registry.collect()}
    standing = Standing(0, 1, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0, "expected")
    wallet = WalletGauges(lambda: standing, "USD")
    names |= {metric.name for metric in wallet.collect()}
    for path in ("serve/admin.py", "serve/worth.py"):
        names |= set(re.findall(r'"(retain_[a-z_]+)"', (ROOT / path).read_text()))
    controller = (ROOT / "deploy" / "run.py").read_text()
    names |= set(re.findall(r'"(retain_controller_[a-z_]+)"', controller))
    return names | {f"retain_controller_{name}" for name in re.findall(r'_gauge\(\s*"([a-z_]+)"', controller)}
