"""What has to run, and why: an experiment compared with what the store has."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from engine import checkout, config
from engine.artifact import ArtifactStore
from engine.criteria import Criterion, Verdict, check_criteria
from engine.errors import ConfigError, DataError
from engine.fingerprint import ROOT, Identity, code_digests, differences, library_versions
from engine.interval import NEVER_HOURS, CheckpointInterval
from engine.ledger import entries, mean_hours_between_preemptions, scope_before, scope_of
from engine.patience import LOCAL_S, SHARED_S
from engine.prices import Prices, load_prices
from engine.stage import IDENTITY, Stage, StageRequest, load_entry
from engine.store import Store, open_store, sha256_of, store_url
from flows import preflight
from flows.pools import ON_THIS_MACHINE, Pools, PricedMachine, machines_for
from flows.sources import Source
from images.locks import locked
from images.table import IMAGES
from retain.parts import JUDGED_BY
from tasks.config import Experiment
from tasks.stages import STAGES

MAX_METRICS = 4  # of a stage whose row shows each of them


@dataclass(frozen=True)
class Plan:
    """The wanted stages in topological order, with all parts of their identities except the digests of their inputs.

    `named` is what EXPERIMENT is set to for this experiment: its name, or the path of its file. `earlier_scope`: the
    ledger of the month before, where there is one for each month.
    """

    experiment: Experiment
    named: str
    store: Store
    stages: tuple[Stage, ...]
    sources: Mapping[str, Source]
    code: Mapping[str, dict[str, str]]
    configs: Mapping[str, dict[str, Any]]
    prices: Prices = field(default_factory=load_prices)
    pools: Pools = ON_THIS_MACHINE
    earlier_scope: str | None = None
    # As this process was started with it: while Prefect runs in it, the process has another one (flows/server.py).
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    @cached_property
    def commit(self) -> str:
        """The checked-out commit (engine/checkout.py); in an image, the one that the image was built from."""
        if built_from := self.environment.get("RETAIN_COMMIT"):
            return built_from
        return checkout.commit(ROOT, self.environment)

    @cached_property
    def artifacts(self) -> ArtifactStore:
        return ArtifactStore(self.store, self.experiment.tag)

    def identity(self, stage: Stage, inputs: Mapping[str, str]) -> Identity:
        """`inputs`: stage -> content digest of each of its inputs."""
        source = self.sources.get(stage.name)
        digest = source.digest if source else None
        if source and source.kind == "synthetic":
            digest = f"{digest}, seed {self.experiment.seed}"
        return Identity(
            stage=stage.name,
            code=self.code[stage.name],
            # A parent in a container lacks the libraries of the other image.
            libraries=library_versions(stage.libraries, locked(ROOT, IMAGES[stage.image])),
            config=self.configs[stage.name],
            seed=self.experiment.seed,
            inputs={name: inputs[name] for name in stage.inputs},
            source=digest,
        )

    def standing(self) -> dict[str, Identity | None]:
        """stage -> its identity, or None while one of its inputs has yet to be made."""
        known: dict[str, Identity | None] = {}
        digests: dict[str, str] = {}
        for stage in self.stages:
            if any(name not in digests for name in stage.inputs):
                known[stage.name] = None
                continue
            identity = known[stage.name] = self.identity(stage, digests)
            manifest = self.artifacts.manifest(stage.name, identity.fingerprint)
            if manifest is not None:
                digests[stage.name] = manifest.digest
        return known

    def is_made(self, stage: str, identity: Identity | None) -> bool:
        """Whether the artifact of that identity is there; None: an input of the stage has yet to be made."""
        return identity is not None and self.artifacts.manifest(stage, identity.fingerprint) is not None

    def reusable(self) -> dict[str, str]:
        """stage -> fingerprint of the artifacts that exist already. Raises ArtifactError for a damaged one."""
        fingerprints = {}
        for name, identity in self.standing().items():
            if identity is not None and self.artifacts.manifest(name, identity.fingerprint) is not None:
                self.artifacts.verify(name, identity.fingerprint)
                fingerprints[name] = identity.fingerprint
        return fingerprints

    def device(self, stage: Stage) -> str:
        """What the stage computes on: "cuda" if it can use a GPU and the experiment has one, else "cpu"."""
        return device_of(self.experiment, stage)

    def machine(self, stage: Stage) -> PricedMachine:
        """The machine that attempts at the stage work on, with its price, until they lose too many of them."""
        return self.machines(stage, 0)[0]

    def machines(self, stage: Stage, preemptions: int) -> list[PricedMachine]:
        """The machines that the next attempt may work on after so many preemptions, the preferred one first."""
        return machines_for(
            self.experiment.costs,
            self.pools,
            self.prices,
            gpu=self.device(stage) == "cuda",
            lasting=preemptions >= self.experiment.execution.on_demand_after,
        )

    def source_keys(self, stage: str) -> dict[str, str]:
        """Name of a source file -> its key in the store. Empty for synthetic data and stages that read no files."""
        source = self.sources.get(stage)
        return {file.name: f"sources/{file.sha256}" for file in source.files} if source else {}

    def time_limit_s(self, stage: Stage) -> float:
        """Seconds after which an attempt stops itself."""
        return self.experiment.execution.time_limit_s[stage.name]  # type: ignore[index]

    def checkpoint_interval(self, stage: Stage) -> CheckpointInterval:
        """The experiment's, with what the ledger has seen of preemptions of the stage's machine."""
        stated, machine = self.experiment.execution.checkpoint, self.machine(stage)
        seen = mean_hours_between_preemptions(
            entries(self.store, self.experiment.costs.scope),
            stated.mean_hours_between_preemptions,
            machine.type,
            machine.pool,
        )
        return stated.model_copy(update={"mean_hours_between_preemptions": min(seen, NEVER_HOURS)})

    def request(
        self, stage: Stage, identity: Identity, inputs: dict[str, str], number: int, work: Path, *, shared: bool = False
    ) -> StageRequest:
        """What an attempt of this number is handed. `inputs`: upstream stage -> fingerprint; `work`: its folder;
        `shared`: of attempt and parent, each somewhere else, the store is all that they share."""
        return StageRequest(
            experiment=self.experiment.tag,
            stage=stage.name,
            entry=stage.entry,
            config_model=stage.config,
            identity=identity,
            inputs=inputs,
            sources=self.source_keys(stage.name),
            number=number,
            store=self.store.url,
            work=str(work),
            threads=stage.resources.threads,
            device=self.device(stage),
            time_limit_s=self.time_limit_s(stage),
            heartbeat_s=self.experiment.execution.heartbeat_s,
            checkpoint=self.checkpoint_interval(stage),
            shared=shared,
            store_patience_s=SHARED_S if shared else LOCAL_S,
        )


def device_of(experiment: Experiment, stage: Stage) -> str:
    """What the stage computes on: "cuda" if it can use a GPU and the experiment has one, else "cpu"."""
    return experiment.execution.device if stage.resources.gpu else "cpu"


def load_experiment(name: str, began: datetime | None = None) -> Experiment:
    """As it is for a run that began then, or begins now: its ledger may be that of the month.

    Raises ConfigError for a key that is wrong, for levels of offers that are stated without their effects, and for a
    locked experiment that was changed.
    """
    stated = _load(name)
    return with_scope(stated, scope_of(stated.costs.scope, began or datetime.now(UTC)))


def _load(name: str) -> Experiment:
    """As it is stated."""
    resolved = config.load(config.experiment_path(name))
    experiment = config.validate(resolved, Experiment)
    # Otherwise an experiment that replaces 20 % by 15 % would be told that 15 % keeps as many customers as 20 % do.
    config.check_restated(resolved, "stages.decision.offers.levels", "stages.decision.assumptions.effect")
    config.check_lock(resolved)
    return experiment


def with_scope(experiment: Experiment, scope: str) -> Experiment:
    """The experiment with another ledger."""
    return experiment.model_copy(update={"costs": experiment.costs.model_copy(update={"scope": scope})})


def make_plan(
    name: str,
    wanted: Iterable[str] = (),
    *,
    to_run: bool = True,
    elsewhere: bool = False,
    budget_usd: float | None = None,
    began: datetime | None = None,
    pools: Pools = ON_THIS_MACHINE,
) -> Plan:
    """The plan for the wanted stages and all that they need; for all stages if none is named.

    `budget_usd`: a cap below the experiment's own. `began`: as load_experiment(). `pools`: where the stages work.
    Raises RetainError for what is missing on this machine. A plan that is not `to_run`, or whose stages run
    `elsewhere`, needs no GPU here.
    """
    began, stated = began or datetime.now(UTC), _load(name)
    experiment = with_scope(stated, scope_of(stated.costs.scope, began))
    if budget_usd is not None:
        experiment = _capped(experiment, budget_usd)
    stages = _with_inputs(tuple(wanted) or tuple(STAGES))
    prices = load_prices()
    if to_run:
        _check_priced(experiment, stages, pools, prices)
    for stage in stages:
        if stage.name not in set(experiment.execution.time_limit_s):
            raise ConfigError(f"experiment {name}: key 'execution.time_limit_s' lacks stage {stage.name!r}")
    store = open_store(store_url())
    if to_run:
        store.check()
    return Plan(
        experiment=experiment,
        named=config.argument(config.experiment_path(name)),
        store=store,
        stages=stages,
        sources=preflight.check(experiment, stages, store.here / "downloads", needs_gpu=to_run and not elsewhere),
        code={stage.name: code_digests(stage.entry) for stage in stages},
        configs={stage.name: stage_config(experiment, stage.name) for stage in stages},
        prices=prices,
        pools=pools,
        earlier_scope=scope_before(stated.costs.scope, began),
    )


def _check_priced(experiment: Experiment, stages: Iterable[Stage], pools: Pools, prices: Prices) -> None:
    """Raises ConfigError for a machine without a price that the stages may come to work on."""
    for gpu in {device_of(experiment, stage) == "cuda" for stage in stages}:
        machines_for(experiment.costs, pools, prices, gpu=gpu, lasting=True)


def _capped(experiment: Experiment, budget_usd: float) -> Experiment:
    costs = experiment.costs
    if not 0 < budget_usd <= costs.budget_usd:
        raise ConfigError(
            f"budget_usd={budget_usd:g}: dollars above 0, and at most the experiment's own cap of "
            f"${costs.budget_usd:g} (costs.budget_usd), which it can only lower"
        )
    lowered = costs.model_copy(update={"budget_usd": budget_usd})
    return experiment.model_copy(update={"costs": lowered})


def put_sources(plan: Plan) -> None:
    """Copies the source files into the store, where every machine finds them under their hash."""
    for file in (file for source in plan.sources.values() for file in source.files):
        try:
            digest = sha256_of(file.path)
        except OSError as error:
            raise DataError(f"{file.path}: can't be read any more ({error.strerror}). Run this again") from None
        if digest != file.sha256:
            raise DataError(f"{file.path}: changed since the plan was made. Run this again")
        plan.store.put_file(f"sources/{file.sha256}", file.path)


def stage_config(experiment: Experiment, name: str) -> dict[str, Any]:
    """The stage's slice of the experiment: what it states about the stage, and of the rest what the stage's config
    model has a field for: words, and for `release` the experiment's name, the exit criteria of what it judges, and the
    limits of what is watched in service."""
    keys = getattr(experiment.stages, name)
    around = dict(experiment.words) | {
        "experiment": experiment.tag,
        "criteria": _judged(experiment),
        "monitoring": experiment.monitoring,
    }
    model = load_entry(STAGES[name].config)
    given = {field: around[field] for field in model.model_fields if field in around and field not in dict(keys)}
    content: dict[str, Any] = model(**dict(keys), **given).model_dump(mode="json")
    return content


def _judged(experiment: Experiment) -> dict[str, dict[str, Criterion]]:
    """The exit criteria by which a part of a release is judged: stage -> metric -> criterion."""
    judges = {stage for stages in JUDGED_BY.values() for stage in stages}
    return {str(stage): criteria for stage, criteria in experiment.criteria.items() if stage in judges}


def why(plan: Plan) -> dict[str, list[str]]:
    """stage -> in words, what would make it run now; an empty list if its artifact exists."""
    current = plan.artifacts.current()
    causes: dict[str, list[str]] = {}
    standing = plan.standing()
    for stage in plan.stages:
        identity = standing[stage.name]
        if identity is None:
            upstream = ", ".join(name for name in stage.inputs if causes[name])
            causes[stage.name] = [f"waits for {upstream}: runs again if that comes out with other bytes"]
        elif plan.artifacts.manifest(stage.name, identity.fingerprint) is not None:
            causes[stage.name] = []
        elif stage.name not in current:
            causes[stage.name] = ["has never completed"]
        else:
            causes[stage.name] = _changes(plan, stage.name, current[stage.name], identity)
    return causes


def key_metrics(plan: Plan, stage: str, fingerprint: str) -> str:
    """The stage's metrics against their criteria, such as "auc 0.852 >= 0.78"; of more than MAX_METRICS the missed."""
    criteria = {str(name): c for name, c in plan.experiment.criteria.items()}.get(stage, {})
    verdicts = check_criteria(stage, plan.artifacts.metrics(stage, fingerprint), criteria)
    shown = [verdict for verdict in verdicts if verdict.value is not None]
    counted = []
    if len(shown) > MAX_METRICS:
        counted = [f"{sum(verdict.passed for verdict in verdicts)} of {len(verdicts)} criteria met"]
        shown = [verdict for verdict in shown if not verdict.passed]
    return ", ".join(counted + [f"{v.metric} {_figure(v.value)} {v.op} {_figure(v.limit)}{_remark(v)}" for v in shown])


def _remark(verdict: Verdict) -> str:
    return "" if verdict.passed else " MISSED" if verdict.gating else " (not met; shown, not gating)"


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value == int(value) and abs(value) >= 1 else f"{value:.4g}"


def _changes(plan: Plan, stage: str, fingerprint: str, now: Identity) -> list[str]:
    stored = plan.store.read(f"{plan.artifacts.prefix(stage, fingerprint)}/{IDENTITY}")
    if stored is None:
        return ["its last artifact is gone from the store"]
    try:
        before = Identity.model_validate_json(stored[0])
    except ValueError:
        return [f"unknown: the {IDENTITY} of its last artifact is damaged"]
    return differences(before, now) or ["its last artifact is gone from the store"]


def _with_inputs(wanted: tuple[str, ...]) -> tuple[Stage, ...]:
    for name in wanted:
        if name not in STAGES:
            raise ConfigError(f"no stage {name!r}. Known: {', '.join(STAGES)}")
    needed = set(wanted)
    for name in reversed(STAGES):
        if name in needed:
            needed |= set(STAGES[name].inputs)
    return tuple(stage for name, stage in STAGES.items() if name in needed)
