"""What is registered with Prefect, and which event fires it."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.events.schemas.automations import AutomationCore
from prefect.events.schemas.events import Event
from prefect.server.events.schemas.automations import Automation as ServersAutomation
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.types._datetime import now

from flows import automations
from flows.automations import AUTOMATIONS, BUDGET, LOST, RETURN, announcer, register
from flows.stage import state_after
from tests.flows.toys import said_by


class Server:
    """As Prefect's client to a server: it keeps automations by id."""

    def __init__(self) -> None:
        self.kept: dict[UUID, AutomationCore] = {}

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def read_automations_by_name(self, name: str) -> list[Any]:
        found = [(key, kept) for key, kept in self.kept.items() if kept.name == name]
        return [type("Automation", (), {"id": key, "name": kept.name}) for key, kept in found]

    def create_automation(self, automation: AutomationCore) -> UUID:
        key = uuid4()
        self.kept[key] = AutomationCore(**automation.model_dump())
        return key

    def update_automation(self, automation_id: UUID, automation: AutomationCore) -> None:
        # An update sends what is set, and Prefect's server refuses a trigger or an action that doesn't say its type.
        sent = automation.model_dump(mode="json", exclude_unset=True)
        assert "owner_resource" not in sent
        assert sent["trigger"]["type"]
        assert all(action["type"] for action in sent["actions"])
        self.kept[automation_id] = automation


def test_registering_twice_leaves_each_automation_once(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    monkeypatch.setattr(automations, "get_client", lambda sync_client: server)
    register()
    before = dict(server.kept)
    register()
    assert list(server.kept) == list(before)
    assert sorted(kept.name for kept in server.kept.values()) == sorted(each.name for each in AUTOMATIONS)
    assert len({each.name for each in AUTOMATIONS}) == len(AUTOMATIONS)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    events: list[Event] = []

    def emit(event: str, resource: dict[str, str], related: list[dict[str, str]], payload: dict[str, str]) -> None:
        events.append(Event(event=event, resource=resource, related=related, payload=payload))  # type: ignore[arg-type]

    monkeypatch.setattr(automations, "emit_event", emit)
    return events


def test_a_budget_that_is_exceeded_pauses_the_deployment_and_a_warning_does_not(sent: list[Event]) -> None:
    """Judged by the server's own trigger."""
    deployment, flow_run = uuid4(), uuid4()
    announce = announcer("retrain/2026-11", flow_run, deployment)
    announce("warning", "83 % is spent")
    announce("exceeded", "the cap was lowered")
    told = [ReceivedEvent(**event.model_dump(), received=event.occurred) for event in sent]
    trigger = ServersAutomation(**BUDGET.model_dump()).trigger
    assert [trigger.covers(event) and trigger.expects(event.event) for event in told] == [False, True]  # type: ignore[union-attr]
    assert [event.event for event in told] == ["retain.budget.warning", "retain.budget.exceeded"]
    assert told[1].resource.id == "retain.budget.retrain/2026-11"
    assert told[1].payload == {"message": "the cap was lowered"}
    roles = {related.role: related.id for related in told[1].related}
    assert roles == {"flow-run": f"prefect.flow-run.{flow_run}", "deployment": f"prefect.deployment.{deployment}"}


def test_prefect_s_server_pauses_the_deployment_whose_run_told_of_it(tmp_path: Path) -> None:
    """And no other. The automations are registered twice, as by a second `make deploy`."""
    assert said_by("toy_automations", tmp_path) == {"after_warning": [], "after_exceeded": ["local"]}


def test_prefect_s_server_tells_the_webhook_of_a_retrain_that_failed(tmp_path: Path) -> None:
    """Once for each failure or crash, of no other run, and not any more once no address is given. Of one that crashed
    it says no end, since it goes on."""
    said = said_by("toy_failures", tmp_path)
    crashed = [each for each in said["called"] if "crashed" in each["title"]]
    assert {each["title"] for each in crashed} == {"The retrain retrain-toy has crashed, and may go on by itself"}
    assert {each["says"] for each in crashed} <= {"No sign of life for 90 s.", "It crashed; it goes on by itself."}
    (told,) = [each for each in said["called"] if each not in crashed]
    assert (told["type"], told["severity"], said["left"]) == ("application/json", "ticket", 0)
    assert told["title"] == "The retrain retrain-toy has ended as Failed"
    assert told["says"] == 'risk: "auc" 0.71\n(wanted >= 0.78) <>'


def test_the_deployment_is_found_by_the_server_s_own_action(sent: list[Event]) -> None:
    from prefect.server.events.actions import _id_of_first_resource_of_kind

    deployment = uuid4()
    announcer("local", uuid4(), deployment)("exceeded", "why")
    event = ReceivedEvent(**sent[0].model_dump(), received=sent[0].occurred)
    assert _id_of_first_resource_of_kind(event, "prefect.deployment") == deployment
    assert [(action.type, action.source) for action in BUDGET.actions] == [("pause-deployment", "inferred")]  # type: ignore[union-attr]


def of_a_flow_run(name: str, flow: str, run_count: int = 1) -> ReceivedEvent:
    """A heartbeat or the change to a state, as Prefect tells of it."""
    return ReceivedEvent(
        occurred=now("UTC"),
        received=now("UTC"),
        event=f"prefect.flow-run.{name}",
        resource={"prefect.resource.id": f"prefect.flow-run.{uuid4()}", "prefect.run-count": str(run_count)},  # type: ignore[arg-type]
        related=[
            {"prefect.resource.id": f"prefect.deployment.{uuid4()}", "prefect.resource.role": "deployment"},  # type: ignore[list-item]
            {
                "prefect.resource.id": f"prefect.flow.{uuid4()}",
                "prefect.resource.role": "flow",
                "prefect.resource.name": flow,
            },  # type: ignore[list-item]
        ],
        id=uuid4(),
    )


def trigger_of(automation: AutomationCore) -> Any:
    return ServersAutomation(**automation.model_dump()).trigger


@pytest.mark.parametrize("flow", ["train", "retrain", "stage"])
def test_a_flow_run_is_lost_that_goes_silent_without_an_end(flow: str) -> None:
    trigger = trigger_of(LOST)
    heartbeat = of_a_flow_run("heartbeat", flow)
    assert trigger.covers(heartbeat)
    assert trigger.starts_after(heartbeat.event)
    for state in ("heartbeat", "Completed", "Failed", "Crashed", "Preempted", "Cancelled", "AwaitingRetry"):
        event = of_a_flow_run(state, flow)
        assert trigger.covers(event)
        assert trigger.expects(event.event), state
    for state in ("Running", "Pending", "Cancelling"):  # no end: silence after these is one
        assert not trigger.expects(of_a_flow_run(state, flow).event)
    assert not trigger.covers(of_a_flow_run("heartbeat", "somebody else's"))


@pytest.mark.parametrize("code", [*range(-15, 100)])
def test_every_state_that_a_stage_ends_with_is_an_end(code: int) -> None:
    """One of another name would count as silence."""
    for cancelled in (False, True):
        try:
            state = state_after(code, "", cancelled=cancelled)
        except ValueError:
            assert code < 0  # no signal has that number
        else:
            assert state.name in automations.ENDS


@pytest.mark.parametrize(
    ("state", "flow", "run_count", "returns"),
    [
        ("Crashed", "train", 1, True),
        ("Crashed", "train", 23, True),
        ("Crashed", "retrain", 1, True),
        ("Crashed", "train", 0, False),  # it never began: its image is missing, for instance
        ("Crashed", "stage", 1, False),
        ("Failed", "train", 1, False),
        ("Cancelled", "train", 1, False),
        ("Completed", "train", 1, False),
    ],
)
def test_a_run_that_crashed_after_it_had_begun_goes_on(state: str, flow: str, run_count: int, returns: bool) -> None:
    trigger, event = trigger_of(RETURN), of_a_flow_run(state, flow, run_count)
    assert (trigger.covers(event) and trigger.expects(event.event)) is returns
