"""FORCE_BASELINE and CANARY_PERCENT, set as the playbook sets them: exported, and the service started again."""

from __future__ import annotations

import pytest

from retain.release import Release
from tests.deploy.chain import REPLICAS, Chain, until
from tests.deploy.faults import MakeChain, busy
from tests.serve.callers import Callers

pytestmark = [pytest.mark.kills, pytest.mark.slow]


def restarted(chain: Chain, **settings: str) -> None:
    chain.settings = settings
    for replica in REPLICAS:
        chain.kill(replica)
        chain.start(replica)


def asked_in_shadow(chain: Chain) -> float:
    return sum(chain.counted("retain_shadow_questions_total").values())


def test_with_a_rollout(chain: MakeChain, release: Release) -> None:
    with chain() as running, Callers(release, running.apis) as callers:
        running.begin(50.0)
        busy(callers, 100)
        restarted(running, FORCE_BASELINE="true")
        asked = asked_in_shadow(running)
        until(lambda: asked_in_shadow(running) > asked + 50)  # the learned decision is still computed
        assert running.served(0.0)
        assert running.rollout.percent == 50.0
        restarted(running, CANARY_PERCENT="5")
        until(lambda: running.served(5.0))
        restarted(running, CANARY_PERCENT="80", FORCE_BASELINE="false")
        until(lambda: running.served(50.0))  # the smaller of both
        busy(callers, 100)
        running.command("rollback")
        until(lambda: running.served(0.0))
        restarted(running, CANARY_PERCENT="100", FORCE_BASELINE="false")
        busy(callers, 100)
        assert running.served(0.0)  # no setting brings back what was rolled back
    callers.check()


def test_without_a_rollout(chain: MakeChain, release: Release) -> None:
    with chain() as running, Callers(release, running.apis) as callers:
        busy(callers, 50)
        assert running.served(0.0)
        restarted(running, FORCE_BASELINE="false")
        assert running.served(5.0)
        restarted(running, FORCE_BASELINE="false", CANARY_PERCENT="20")
        assert running.served(20.0)
        restarted(running, FORCE_BASELINE="true", CANARY_PERCENT="20")
        asked = asked_in_shadow(running)
        until(lambda: asked_in_shadow(running) > asked + 20)
        assert running.served(0.0)
    callers.check()
