"""A store with a champion and releases to try, and all whom people's commands ask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deploy import controller
from engine.document import Document
from engine.store import FolderStore
from retain.rollout import Rollout, describe, rollout_key
from tests.deploy.fakes import EXPERIMENT, GOOD_PARTS, MISSED_PARTS, NO_PARTS, FakePrometheus, make_current, release

ANN = ("--by", "Ann", "--reason", "the weekly release")
DAY = 86_400.0
HEALTHY = {
    "decisions": 4_000.0, "errors": 1.0, "seconds_count": 4_000.0, "seconds_bucket": 3_990.0, "messages": 2_000.0,
    "unsafe": 1.0,
}  # fmt: skip


class Town:
    """A store with a champion and releases to try, and all who are asked."""

    def __init__(self, root: Path, prometheus: FakePrometheus, urls: list[str]) -> None:
        self.store = FolderStore(root)
        self.champion = release(root, 1, GOOD_PARTS)
        self.good, self.missed, self.none = (
            release(root, number, parts) for number, parts in enumerate((GOOD_PARTS, MISSED_PARTS, NO_PARTS), start=2)
        )
        make_current(root, 1)
        self.prometheus = prometheus
        self.environment = {
            "EXPERIMENT": EXPERIMENT,
            "RETAIN_PROMETHEUS_URL": urls[0],
            "RETAIN_REPLICAS": ",".join(urls[1:]),
            "RETAIN_ADMIN_TOKEN": "admin-admin-admin",
        }
        prometheus.series["retain_release_info"] = [({"release": self.champion}, 2.0)]

    def run(self, *arguments: str) -> int:
        return controller.main(arguments, self.environment)

    @property
    def rollout(self) -> Rollout | None:
        return Document(self.store, rollout_key(EXPERIMENT), Rollout).read()

    def state(self) -> str:
        rollout = self.rollout
        return "nothing" if rollout is None else describe(rollout)

    def measures(self, watched_s: float = DAY, matured: float = 0.0, drop: float = 0.0, **counts: float) -> None:
        """What Prometheus tells of the challenger."""
        metrics = {f"retain_arm_{name}": value for name, value in (HEALTHY | counts).items()}
        metrics |= {"count_over_time": watched_s, "min_over_time": watched_s}
        series: Any = {name: [({}, value)] for name, value in metrics.items()}
        for arm, value in (("learned", 0.5 - drop), ("baseline", 0.5)):
            series[f'retain_nrr_matured{{arm="{arm}"'] = [({}, matured)]
            series[f'retain_nrr_proxy{{arm="{arm}"'] = [({}, value)]
        self.prometheus.series |= series
