"""What Prefect does by itself about runs of deployments, as code: `register()` puts it on the server.

A flow run in a container says every 30 s that it is alive (infra/pools/docker.json). Where that stops without an end,
its container is gone together with whoever would have told, so it is marked as crashed. A run that crashed goes on by
itself, in another container; stages are started again by their run alone.

A run says what happens to its budget by an event about the ledger's scope (`retain.budget.<scope>`), with the flow run
and its deployment as related resources. Where the budget is exceeded, the run has stopped its own children already; the
automation pauses the deployment, so that no schedule starts it again before somebody has looked. A person still can.
A run whose ledger is a month's names no deployment, and none is paused: that ledger refuses what else comes in the
month, and the next month has a cap of its own.

A retrain that fails is seen by nobody, since nobody has started it: the webhook of RETAIN_PAGE_URL is told, once for
each crash or failure.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events import emit_event
from prefect.events.actions import CallWebhook, ChangeFlowRunState, PauseDeployment
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.types import SecretDict
from pydantic import SecretStr

from flows.prefect_api import AT_ONCE_S, RETRAIN, RUNS, STAGE
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

SILENT_S = 90  # three heartbeats; looked at every 5 s
HEARTBEAT = "prefect.flow-run.heartbeat"
# States by their names, of Prefect and of flows/stage.py; one that was rescheduled is silent until it runs again.
ENDS = (
    *("Completed", "Failed", "TimedOut", "Crashed", "Cancelled", "AwaitingRetry", "Paused", "Suspended"),
    *("Preempted", "Claimed", "Fenced", "StoreUnavailable", "Overdue", "Refused"),
)
LOST = AutomationCore(
    name="retain: a flow run without a heartbeat has crashed",
    description="Its container is gone together with the worker and the witness, or is cut off.",
    trigger=EventTrigger(
        after={HEARTBEAT},
        expect={HEARTBEAT, *(f"prefect.flow-run.{name}" for name in ENDS)},
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related={"prefect.resource.role": "flow", "prefect.resource.name": [*RUNS, STAGE]},
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=SILENT_S),
    ),
    actions=[
        ChangeFlowRunState(
            state=StateType.CRASHED, name="Crashed", message=f"No sign of life for {SILENT_S} s.", force=False
        ),
    ],
)

# A run that crashes again at once, for want of its image perhaps, is left alone after the second time. How often it may
# come back in all is the run's own business (flows/parent.py).
RETURN = AutomationCore(
    name="retain: a crashed run goes on",
    description="In a new container, where it takes up the stages that are at work.",
    trigger=EventTrigger(
        expect={"prefect.flow-run.Crashed"},
        # Only what has run before: its count begins with a digit other than 0.
        match={
            "prefect.resource.id": "prefect.flow-run.*",
            "prefect.run-count": [f"{digit}*" for digit in range(1, 10)],
        },
        match_related={"prefect.resource.role": "flow", "prefect.resource.name": list(RUNS)},
        for_each={"prefect.resource.id"},
        posture=Posture.Reactive,
        threshold=1,
        within=timedelta(seconds=AT_ONCE_S),
    ),
    actions=[
        ChangeFlowRunState(
            state=StateType.SCHEDULED, name="AwaitingRetry", message="It crashed; it goes on by itself.", force=False
        ),
    ],
)
AUTOMATIONS: tuple[AutomationCore, ...] = (BUDGET, LOST, RETURN)

# The keys are those of a page (deploy/pages.py). A ticket: the release of before stays, and answers. What has happened
# is the event's to say: by the time of the call, the run may have gone on, and have another state.
TOLD = """{
  "id": "{{ event.id }}",
  "severity": "ticket",
  "title": {{ ("The retrain " ~ flow_run.name ~ (" has crashed, and may go on by itself" if "Crashed" in event.event
              else " has ended as " ~ event.event | replace("prefect.flow-run.", ""))) | tojson }},
  "says": {{ (flow_run.state.message or "Prefect says no more of it.") | tojson }},
  "at": {{ (event.occurred.timestamp() * 1000000) | int }}
}"""
FAILED = "retain: somebody is told of a retrain that failed"
WEBHOOK = "retain-page"  # the block of Prefect that keeps the address


def told_of_failures(webhook: UUID) -> AutomationCore:
    """Calls the webhook that this block holds when a retrain has failed, and each time that it crashes, after which
    it may go on by itself (RETURN)."""
    return AutomationCore(
        name=FAILED,
        description="By POST to the address that `make deploy` found in RETAIN_PAGE_URL.",
        trigger=EventTrigger(
            expect={f"prefect.flow-run.{name}" for name in ("Failed", "TimedOut", "Crashed")},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.role": "flow", "prefect.resource.name": RETRAIN},
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(0),
        ),
        actions=[CallWebhook(block_document_id=webhook, payload=TOLD)],
    )


def register(page_url: str | None = None) -> None:
    """Creates the automations on Prefect's server, or updates those that have their names. Without a `page_url` nobody
    is told of a retrain that failed, not even who was until now."""
    with get_client(sync_client=True) as client:
        automations = [*AUTOMATIONS]
        if page_url is not None:
            automations.append(told_of_failures(_webhook(page_url)))
        else:
            for each in client.read_automations_by_name(name=FAILED):
                client.delete_automation(each.id)
        for automation in automations:
            # Through a dictionary, so that every field counts as set: an update sends no other. It may name no owner.
            wanted = AutomationCore(**automation.model_dump(exclude={"owner_resource"}))
            present = client.read_automations_by_name(name=automation.name)
            for each in present:
                client.update_automation(automation_id=each.id, automation=wanted)
            if not present:
                client.create_automation(automation=wanted)


def _webhook(url: str) -> UUID:
    """Keeps the address in Prefect, encrypted, and returns the block's id."""
    block = Webhook(url=SecretStr(url), headers=SecretDict({"Content-Type": "application/json"}))
    saved = block.save(WEBHOOK, overwrite=True)
    assert isinstance(saved, UUID)
    return saved


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
