"""What Prefect does by itself about runs of deployments, as code: `register()` puts it on the server.

A run says what happens to its budget by an event about the ledger's scope (`retain.budget.<scope>`), with the flow run
and its deployment as related resources. Where the budget is exceeded, the run has stopped its own children already; the
automation sees to it that nothing starts the deployment again before somebody has looked.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.events import emit_event
from prefect.events.actions import PauseDeployment
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

from flows.run import Announce

WARNING, EXCEEDED = "retain.budget.warning", "retain.budget.exceeded"

BUDGET = AutomationCore(
    name="retain: pause a deployment whose budget is exceeded",
    description="Resume it in the UI once there is money: `make budget` shows and changes the cap of the ledger.",
    trigger=EventTrigger(
        expect={EXCEEDED},
        match={"prefect.resource.id": "retain.budget.*"},
        match_related={"prefect.resource.id": "prefect.deployment.*", "prefect.resource.role": "deployment"},
        posture=Posture.Reactive,
        threshold=1,
        within=timedelta(0),
    ),
    actions=[PauseDeployment(source="inferred", deployment_id=None)],
)
AUTOMATIONS: tuple[AutomationCore, ...] = (BUDGET,)


def register() -> None:
    """Creates the automations on Prefect's server, or updates those that have their names."""
    with get_client(sync_client=True) as client:
        for automation in AUTOMATIONS:
            # Through a dictionary, so that every field counts as set: an update sends no other.
            wanted = AutomationCore(**automation.model_dump())
            present = client.read_automations_by_name(name=automation.name)
            for each in present:
                client.update_automation(automation_id=each.id, automation=wanted)
            if not present:
                client.create_automation(automation=wanted)


def announcer(scope: str, flow_run: UUID, deployment: UUID | None) -> Announce:
    """How the run of a deployment tells Prefect of its budget; the two ids are Prefect's.

    Events are sent by a thread of Prefect, which is waited for when the process ends in an orderly way.
    """
    related = [{"prefect.resource.id": f"prefect.flow-run.{flow_run}", "prefect.resource.role": "flow-run"}]
    if deployment is not None:
        related += [{"prefect.resource.id": f"prefect.deployment.{deployment}", "prefect.resource.role": "deployment"}]
    about = {"prefect.resource.id": f"retain.budget.{scope}", "prefect.resource.name": f"budget of {scope}"}

    def announce(event: str, words: str) -> None:
        name = {"warning": WARNING, "exceeded": EXCEEDED}[event]
        emit_event(name, resource=about, related=related, payload={"message": words})

    return announce
