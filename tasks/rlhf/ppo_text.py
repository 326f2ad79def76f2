"""`ppo_text`: PPO (Schulman et al. 2017) on the words of a message, from SFT's adapter on, towards a shaped reward.

One model with four adapters, of which one is in use at a time: `policy` (trained; a copy of SFT's at first),
`reference` (SFT's, frozen, always read from the input), `training_rm` and `validation_rm` (reward models). The training
RM is part of the reward (rewards.py); the validation RM, which the policy never sees, picks the adapter that is kept:
the one whose replies to the validation prompts it liked best, SFT's own included. stops.py looks for signs of reward
hacking, and when it finds one the training ends early with what was kept until then: that is a result, no error.

What is not textbook, or left open by it; the code refers to these numbers:

1. Each token costs c x (log p of the policy - log p of the reference); c follows Ziegler et al. 2019
   (https://arxiv.org/abs/1909.08593), so that the mean over tokens stays near its target. The reward proper comes with
   the last token. Nothing is discounted; advantages are GAE's (https://arxiv.org/abs/1506.02438).
2. Advantages are whitened over all tokens of a batch, not of a minibatch.
3. The value of a token is linear in the policy's last hidden state, which gets no gradient from it: the adapter has the
   words to learn, and the first value errors, from a head of zeros, would move it more than any advantage does. For the
   same reason the gradients of policy and values are clipped apart, and values are not clipped at all.
4. Scores of a reward model are standardised by its scores of the reference's replies to the validation prompts, once.
5. Log-probabilities are those of sampling, at the configured temperature.

**Exact resume.** A checkpoint holds policy, value head, optimiser, coefficient, scales, traces and the adapter kept.
Every draw (order of prompts, samples, minibatches) comes from (seed, purpose, iteration), so that the iteration is the
state of all generators. When asked to stop in the middle of an iteration, what is saved is how it began. A checkpoint
of other code is never found: code is part of the fingerprint that it lies under, so there are no old formats to read.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load as read_tensors
from safetensors.torch import save as write_tensors
from torch import Tensor, nn

from engine.checkpoint import Preempted
from engine.errors import DataError, RetainError
from retain.rules import Rules
from tasks.rlhf.judging import measures, stops
from tasks.rlhf.judging.rewards import Reward, Scale, shaped
from tasks.rlhf.language import decode, lm, upstream
from tasks.rlhf.language.decode import Sample
from tasks.rlhf.language.lm import Lm, Row
from tasks.rlhf.prompt_tables import PROMPTS

if TYPE_CHECKING:
    from engine.stage import Metrics, Workspace
    from tasks.config import KlConfig, TextPpoConfig

# Random streams, whose numbers never change (tests/tasks/test_streams.py).
PPO_ORDER_STREAM = 0
PPO_SAMPLES_STREAM = 1
PPO_MINIBATCHES_STREAM = 2
PPO_VALIDATION_STREAM = 3

POLICY, REFERENCE = "policy", "reference"  # adapters
TRAINING, VALIDATION = "training", "validation"  # reward models
STATE, OPTIMISER, BEST = "state.json", "optimiser.safetensors", "best/"
PHASES = ("generation", "scoring", "update", "validation")  # of an iteration
VALIDATION_TRACES = ("validation_score", "training_score", "validation_unsafe", "validation_tokens")


def run(config: TextPpoConfig, inputs: Mapping[str, Path], workspace: Workspace) -> Metrics:
    torch.set_num_threads(workspace.threads)
    lm.check_device(workspace.device)
    learner = Learner.start(config, inputs, workspace.device, workspace.seed)
    checkpoint = workspace.checkpoints.load()
    if checkpoint is not None:
        learner.restore(checkpoint.files)
    why, kl = train(learner, workspace, checkpoint is not None)
    state = learner.state
    for name, content in learner.best_files.items():
        workspace.out.bytes(name, content)
    workspace.out.parquet("curves.parquet", {name: [trace[name] for trace in state.traces] for name in state.traces[0]})
    stop = {"stopped": bool(why), "reason": why, "iteration": state.iteration, "kept_iteration": state.best.iteration}
    workspace.out.json("stop.json", stop)
    return metrics(state, kl, config.kl, learner.truncated, bool(why))


def train(learner: Learner, workspace: Workspace, resumed: bool) -> tuple[str, float]:
    """To the end, or to a sign of reward hacking: the sign ("" for none), and the KL in nats a token of what was kept.

    Raises Preempted, and RetainError for weights or scores that are no numbers any more.
    """
    state, total = learner.state, learner.config.iterations
    saved = state.iteration if resumed else None  # iteration of the newest checkpoint
    begun_iteration = state.iteration
    begun: dict[str, bytes] = {}  # the checkpoint of iteration `begun_iteration`, once there can be one
    why = learner.hacking()
    try:
        with lm.interruptible(learner.lm, workspace):
            if not resumed:
                learner.measure_reference()
                workspace.progress(0, total)
                saved, begun = 0, learner.files()
                workspace.save(0, begun)
            while state.iteration < total and not why:
                begun_iteration, begun = state.iteration, learner.files()
                result, seconds = learner.iterate()
                trace = state.traces[-1]
                workspace.progress(
                    state.iteration, total, reward=trace["reward"], kl=trace["kl"], tokens=trace["tokens"], **seconds
                )
                why = learner.hacking()
                if result is not None and not why:
                    learner.keep_if_best(result)
                if workspace.checkpoint_due():
                    saved, begun = state.iteration, learner.files()
                    begun_iteration = saved
                    workspace.save(begun_iteration, begun)
            begun_iteration, begun = state.iteration, learner.files()
            kl = learner.kl_of_best()
    except Preempted:
        # In the middle of an iteration: what is saved is how it began.
        if begun and saved != begun_iteration:
            workspace.save(begun_iteration, begun)
        raise
    except lm.Diverged as error:
        if saved is None:
            raise RetainError(
                f"ppo_text: {error}, before the first iteration: what sft or rm made is broken; train it again"
            ) from None
        raise RetainError(
            f"ppo_text: {error} in iteration {state.iteration + 1}; the last good checkpoint is of iteration {saved}. "
            "Lower stages.ppo_text.learning_rate, and look at the reward models"
        ) from None
    if why:
        print(f"ppo_text: stopped after iteration {state.iteration}: {why}", flush=True)
    return why, kl


# -- what it works on ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TokenisedPrompt:
    """`ids`: up to where the reply begins, without the beginning of one that is too long."""

    text: str
    ids: list[int]
    offer: int


@dataclass(frozen=True)
class Prompts:
    training: list[TokenisedPrompt]
    validation: list[TokenisedPrompt]
    months: int
    truncated: int


def read_prompts(folder: Path, text: lm.Text, longest: int) -> Prompts:
    """Raises DataError where a part is empty."""
    months = upstream.about(folder)["months"]
    truncated = 0
    parts: dict[str, list[TokenisedPrompt]] = {"train": [], "validation": []}
    for row in upstream.read(folder, PROMPTS):
        if row["part"] in parts:
            ids = text.prompt(row["prompt"])
            truncated += len(ids) > longest
            parts[row["part"]].append(TokenisedPrompt(row["prompt"], ids[-longest:], int(row["offer"])))
    for part, prompts in parts.items():
        if not prompts:
            raise DataError(f"prompts/prompts.parquet: no prompt of part {part}; run `prompts` again")
    return Prompts(parts["train"], parts["validation"], months, truncated)


def at_iteration(prompts: Sequence[TokenisedPrompt], iteration: int, batch: int, seed: int) -> list[TokenisedPrompt]:
    """The batch of an iteration (from 0): all prompts in turn, in another order each time."""
    places = range(iteration * batch, (iteration + 1) * batch)
    orders = {
        epoch: np.random.default_rng([seed, PPO_ORDER_STREAM, epoch]).permutation(len(prompts))
        for epoch in {place // len(prompts) for place in places}
    }
    return [prompts[orders[place // len(prompts)][place % len(prompts)]] for place in places]


# -- one iteration: generate, score, update --------------------------------------------------------------------------


# Of each reply, a value per token: log-probabilities when it was sampled, advantages, returns.
Targets = tuple[list[Tensor], list[Tensor], list[Tensor]]


@dataclass(frozen=True)
class Rollout:
    """n prompts with their replies, and what was thought of them before the update. Tensors hold a value per token."""

    rows: list[Row]
    samples: list[Sample]
    rewards: list[Reward]
    unsafe: list[bool]
    logs: tuple[Tensor, ...]
    advantages: tuple[Tensor, ...]
    returns: tuple[Tensor, ...]
    kl: float
    kl_error: float  # its standard error, replies drawn
    entropy: float

    def targets(self, chosen: Sequence[int]) -> Targets:
        logs, advantages, returns = (
            [values[i] for i in chosen] for values in (self.logs, self.advantages, self.returns)
        )
        return logs, advantages, returns


def generate(
    language: Lm, prompts: Sequence[TokenisedPrompt], config: TextPpoConfig, generator: torch.Generator
) -> list[Sample]:
    """A reply of the adapter in use to each prompt."""
    ids = [prompt.ids for prompt in prompts]
    return decode.sample(language, ids, config.max_tokens, config.temperature, generator, config.batch)


def adapter_of(name: str) -> str:
    """Of a reward model. Not its name alone: torch keeps `training` of a module for itself."""
    return f"{name}_rm"


def reward_model_scores(
    language: Lm, name: str, prompts: Sequence[TokenisedPrompt], samples: Sequence[Sample], config: TextPpoConfig
) -> list[float]:
    """A raw score of each reply by the reward model `name`, of the text as a judge reads it, not of the ids drawn.

    Raises lm.Diverged for one that is not finite.
    """
    room = config.max_prompt + config.max_tokens
    rows = [language.text.row(prompt.text, sample.text, room) for prompt, sample in zip(prompts, samples)]
    scores = lm.scores(language, adapter_of(name), rows).tolist()
    if not np.isfinite(scores).all():
        raise lm.Diverged(f"a score of the {name} RM is not a finite number")
    return scores


def shaped_rewards(
    prompts: Sequence[TokenisedPrompt],
    samples: Sequence[Sample],
    scores: Sequence[float],
    months: int,
    rules: Rules,
    config: TextPpoConfig,
) -> tuple[list[Reward], list[bool]]:
    """The reward of each reply, and whether it breaks a rule of safety.

    `scores` are standardised; `months` is for how long an offer holds, which the rules have to know.
    """
    is_unsafe = [bool(rules.unsafe(sample.text, prompt.offer, months)) for prompt, sample in zip(prompts, samples)]
    rewards = [
        shaped(config.rewards, score, bad, len(sample.ids), sample.ended, config.max_tokens)
        for score, bad, sample in zip(scores, is_unsafe, samples)
    ]
    return rewards, is_unsafe


@torch.no_grad()
def score(
    language: Lm,
    head: nn.Linear,
    prompts: Sequence[TokenisedPrompt],
    samples: Sequence[Sample],
    scale: Scale,
    months: int,
    rules: Rules,
    coefficient: float,
    config: TextPpoConfig,
) -> Rollout:
    """What the update needs to know of n sampled replies, before any weight moves.

    `head` gives a token's value from its hidden state, `scale` standardises the training RM's scores, `coefficient` is
    the cost of a nat of KL. Raises lm.Diverged.
    """
    # Rewards: one number for each reply (4).
    scores = [scale(score) for score in reward_model_scores(language, TRAINING, prompts, samples, config)]
    rewards, is_unsafe = shaped_rewards(prompts, samples, scores, months, rules, config)

    # One pass through policy and reference; of each reply (t,): log p of the policy, log-ratio, entropy, value.
    rows = [(prompt.ids, sample.ids) for prompt, sample in zip(prompts, samples)]
    lengths = [len(reply) for _, reply in rows]
    logs, log_ratios, entropies, values = ([torch.empty(0)] * len(rows) for _ in range(4))
    for chosen, log, log_ratio, entropy, hidden in against_reference(language, rows, config):
        lengths_of_pass = [lengths[i] for i in chosen]
        for of_replies, of_pass in (
            (logs, log), (log_ratios, log_ratio), (entropies, entropy), (values, head(hidden)[:, 0])
        ):  # fmt: skip
            for i, of_reply in zip(chosen, of_pass.cpu().split(lengths_of_pass)):
                of_replies[i] = of_reply

    # Every token pays for its KL, the last one is given the reward as well (1).
    token_rewards = [-coefficient * log_ratio for log_ratio in log_ratios]
    for token_reward, reward in zip(token_rewards, rewards):
        token_reward[-1] += reward.total
    advantages = [gae(token_reward, value, config.gae_lambda) for token_reward, value in zip(token_rewards, values)]

    # Returns are of the advantages as they are; what the policy learns from is whitened (2).
    flat = torch.cat(advantages)
    whitened = (flat - flat.mean()) / (flat.std(correction=0) + 1e-8)
    return Rollout(
        rows=rows,
        samples=list(samples),
        rewards=rewards,
        unsafe=is_unsafe,
        logs=tuple(logs),
        advantages=torch.split(whitened, lengths),
        returns=tuple(advantage + value for advantage, value in zip(advantages, values)),
        kl=float(torch.cat(log_ratios).double().mean()),
        kl_error=float(np.std([float(of_reply.sum()) for of_reply in log_ratios]) * len(rows) ** 0.5 / sum(lengths)),
        entropy=float(torch.cat(entropies).double().mean()),
    )


def against_reference(
    language: Lm, rows: Sequence[lm.Row], config: TextPpoConfig
) -> Iterator[tuple[list[int], Tensor, Tensor, Tensor, Tensor]]:
    """Of each pass: its rows, and of all their reply tokens, one row after another, log p of the policy, log p of the
    policy - log p of the reference (both in nats, (tokens,)), entropies (tokens,) and hidden states (tokens, width)."""
    for chosen in lm.passes(language, rows):
        part = [rows[i] for i in chosen]
        of_policy, entropy, hidden = lm.log_probs(language, part, config.temperature)
        with lm.using(language, REFERENCE):
            of_reference, _, _ = lm.log_probs(language, part, config.temperature)
        yield chosen, of_policy, of_policy - of_reference, entropy, hidden


def gae(rewards: Tensor, values: Tensor, trace: float) -> Tensor:
    """(t,): advantages of a reply's tokens, from their rewards (t,) and values (t,); `trace` is lambda.

    Nothing comes after the last token, and nothing is discounted (1).
    """
    advantages, next_value, advantage = [], 0.0, 0.0
    for reward, value in zip(reversed(rewards.tolist()), reversed(values.tolist())):
        advantage = reward + next_value - value + trace * advantage
        next_value = value
        advantages.append(advantage)
    return torch.tensor(advantages[::-1])


def update(
    language: Lm,
    head: nn.Linear,
    optimiser: torch.optim.Optimizer,
    rollout: Rollout,
    config: TextPpoConfig,
    rng: np.random.Generator,
) -> dict[str, float]:
    """Improves the policy, which is in use, and the values. Means over minibatches of clip share and losses.

    Raises lm.Diverged before a step that would not be finite: the weights stay as good as they were.
    """
    figures = []
    for _ in range(config.epochs):
        for chosen in split([int(i) for i in rng.permutation(len(rollout.rows))], config.minibatches):
            optimiser.zero_grad()
            figure = gradients(language, head, [rollout.rows[i] for i in chosen], rollout.targets(chosen), config)
            # Policy and values each by itself (3): a value error would shorten the policy's step as well.
            parameters = [group["params"] for group in optimiser.param_groups]
            norms = [nn.utils.clip_grad_norm_(part, config.max_gradient).item() for part in parameters]
            if not all(map(math.isfinite, (figure["loss"], *norms))):
                raise lm.Diverged(f"the loss is {figure['loss']:g} and its gradients' norms are {norms}")
            optimiser.step()
            figures.append(figure)
    return {name: float(np.mean([figure[name] for figure in figures])) for name in ("clip_share", "value_loss")}


def gradients(
    language: Lm, head: nn.Linear, rows: Sequence[Row], targets: Targets, config: TextPpoConfig
) -> dict[str, float]:
    """Adds a minibatch's to those of the parameters: loss, clip share and value loss, each a mean over its tokens.

    Few rows go through the model at once, those of like length: there is little padding, and a stop waits for one
    pass.
    """
    tokens = sum(len(reply) for _, reply in rows)
    sums = dict.fromkeys(("loss", "clip_share", "value_loss"), 0.0)
    for chosen in lm.passes(language, rows):
        logs, _, hidden = lm.log_probs(language, [rows[i] for i in chosen], config.temperature)
        old_logs, advantages, returns = (
            torch.cat([of_replies[i] for i in chosen]).to(language.device) for of_replies in targets
        )
        # The clipped objective, summed over tokens.
        ratio = (logs - old_logs).exp()
        clipped_ratio = ratio.clamp(1 - config.clip, 1 + config.clip)
        policy_loss = -torch.minimum(ratio * advantages, clipped_ratio * advantages).sum()
        # Values, without a gradient into the policy (3).
        value_loss = (head(hidden.detach())[:, 0] - returns).square().sum() / 2
        loss = (policy_loss + config.value_weight * value_loss) / tokens
        loss.backward()
        clip_share = ((ratio - 1).abs() > config.clip).sum() / tokens
        for name, value in (("loss", loss), ("clip_share", clip_share), ("value_loss", value_loss / tokens)):
            sums[name] += value.item()
    return sums


def split(items: Sequence[int], parts: int) -> list[list[int]]:
    """In at most `parts` runs of about one length, none empty."""
    ends = [len(items) * part // parts for part in range(parts + 1)]
    return [list(items[a:b]) for a, b in pairwise(ends) if a < b]


def adapted(coefficient: float, kl: float, n: int, config: KlConfig) -> float:
    """The coefficient after a batch of `n` replies of mean `kl` nats a token (Ziegler et al. 2019, section 2.2): up
    where KL is above its target, down where it is below (1)."""
    error = min(max(kl / config.target - 1, -config.max_change), config.max_change)
    return coefficient * (1 + error * n / config.horizon)


# -- what is trained and what is remembered --------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """Of SFT's replies to the validation prompts: what reward models say of them, and how long they are."""

    training: Scale
    validation: Scale
    tokens: float


@dataclass(frozen=True)
class ValidationResult:
    """The policy's replies to all validation prompts. Scores are in deviations of SFT's above SFT's mean."""

    iteration: int
    validation_score: float
    training_score: float
    reward: float
    unsafe: float
    tokens: float
    distinct_2: float


@dataclass
class State:
    """All that is remembered besides weights. `best`: the result that the validation RM liked best."""

    coefficient: float
    iteration: int = 0
    reference: Reference = Reference(Scale(0.0, 1.0), Scale(0.0, 1.0), 0.0)
    best: ValidationResult = ValidationResult(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    traces: list[dict[str, float]] = field(default_factory=list)

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, content: bytes) -> State:
        data = json.loads(content)
        reference = data["reference"]
        scales = {name: Scale(**reference[name]) for name in (TRAINING, VALIDATION)}
        return cls(
            coefficient=data["coefficient"],
            iteration=data["iteration"],
            reference=Reference(**{**reference, **scales}),
            best=ValidationResult(**data["best"]),
            traces=data["traces"],
        )


@dataclass
class Learner:
    config: TextPpoConfig
    seed: int
    lm: Lm
    lora: Any
    prompts: Prompts
    rules: Rules
    head: nn.Linear
    optimiser: torch.optim.AdamW
    state: State
    best_files: dict[str, bytes]  # of the adapter that the validation RM liked best

    @classmethod
    def start(cls, config: TextPpoConfig, inputs: Mapping[str, Path], device: str, seed: int) -> Learner:
        """Everything before the first iteration, but what is measured of the reference."""
        text = lm.load_text(inputs["base"])
        lm.check_room(text, config.max_prompt + config.max_tokens, "stages.ppo_text: max_prompt and max_tokens")
        prompts = read_prompts(inputs["prompts"], text, config.max_prompt)
        language = lm.load(inputs["base"], config.bits, device)
        lora = lm.load_adapter(language, inputs["sft"], REFERENCE)
        for name in (TRAINING, VALIDATION):
            lm.load_adapter(language, inputs["rm"] / name, adapter_of(name))
        lm.load_adapter(language, inputs["sft"], POLICY, trained=True)
        lm.use(language, POLICY)
        language.model.eval()  # no dropout: what was sampled has to have the probability that it is trained with
        head = nn.Linear(language.width, 1, device=language.device)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        trained = [value for value in language.model.parameters() if value.requires_grad]
        groups = [{"params": trained}, {"params": list(head.parameters())}]
        optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=0.0)
        best_files = lm.adapter_files(language, lora, POLICY)
        state = State(config.kl.coefficient)
        return cls(config, seed, language, lora, prompts, Rules(config.rules), head, optimiser, state, best_files)

    @property
    def truncated(self) -> int:
        return self.prompts.truncated

    def measure_reference(self) -> None:
        """The policy is the reference still. Sets the scales, once."""
        samples = self._on_validation(0)
        scores = self._scores(samples)
        tokens = float(np.mean([len(sample.ids) for sample in samples]))
        self.state.reference = Reference(Scale.of(scores[TRAINING]), Scale.of(scores[VALIDATION]), tokens)
        self.state.best = self._result(0, samples, scores)

    def iterate(self) -> tuple[ValidationResult | None, dict[str, float]]:
        """One iteration, whose trace is added to the state: its validation, where due, and the seconds of each part."""
        config, state, number = self.config, self.state, self.state.iteration + 1
        times = [time.monotonic()]
        # Generation.
        prompts = at_iteration(self.prompts.training, state.iteration, config.batch, self.seed)
        samples = generate(self.lm, prompts, config, decode.generator([self.seed, PPO_SAMPLES_STREAM, number]))
        times.append(time.monotonic())
        # Scoring.
        scale, months = state.reference.training, self.prompts.months
        rollout = score(self.lm, self.head, prompts, samples, scale, months, self.rules, state.coefficient, config)
        times.append(time.monotonic())
        # Update.
        rng = np.random.default_rng([self.seed, PPO_MINIBATCHES_STREAM, number])
        losses = update(self.lm, self.head, self.optimiser, rollout, config, rng)
        times.append(time.monotonic())
        # Validation, where it is due.
        result = None
        if number % config.validate_every == 0 or number == config.iterations:
            samples = self._on_validation(number)
            result = self._result(number, samples, self._scores(samples))
        times.append(time.monotonic())
        state.traces.append(trace(number, rollout, losses, state.coefficient, result))
        state.coefficient = adapted(state.coefficient, rollout.kl, len(rollout.rows), config.kl)
        state.iteration = number
        return result, {f"{phase}_s": round(b - a, 3) for phase, (a, b) in zip(PHASES, pairwise(times))}

    def hacking(self) -> str:
        """A sign of it, or ''."""
        config, state = self.config, self.state
        return stops.reason(config.stops, config.kl.target, state.reference.tokens, state.traces)

    def keep_if_best(self, result: ValidationResult) -> None:
        """Keeps the policy's adapter if the validation RM likes it better than any before."""
        if result.validation_score > self.state.best.validation_score:
            self.state.best, self.best_files = result, lm.adapter_files(self.lm, self.lora, POLICY)

    @torch.no_grad()
    def kl_of_best(self) -> float:
        """Nats a token of what it writes to the validation prompts. The adapter kept takes the policy's place."""
        if not self.state.best.iteration:
            return 0.0  # the reference itself
        lm.set_tensors(self.lm, read_tensors(self.best_files[lm.ADAPTER]), POLICY)
        samples = self._on_validation(self.state.best.iteration)
        rows = [(prompt.ids, sample.ids) for prompt, sample in zip(self.prompts.validation, samples)]
        log_ratios = [log_ratio.double() for _, _, log_ratio, _, _ in against_reference(self.lm, rows, self.config)]
        return float(torch.cat(log_ratios).mean())

    def files(self) -> dict[str, bytes]:
        """The checkpoint."""
        tensors = {f"head.{name}": value.detach().cpu() for name, value in self.head.named_parameters()}
        for number, moments in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{number}.{name}": value.cpu() for name, value in moments.items()}
        return {
            STATE: self.state.to_json(),
            OPTIMISER: write_tensors({name: value.clone() for name, value in sorted(tensors.items())}),
            lm.ADAPTER: lm.adapter_files(self.lm, self.lora, POLICY)[lm.ADAPTER],
            **{BEST + name: content for name, content in self.best_files.items()},
        }

    def restore(self, files: Mapping[str, bytes]) -> None:
        """From a checkpoint. The reference and the reward models are the inputs', as at the start."""
        self.state = State.from_json(files[STATE])
        self.best_files = {name.removeprefix(BEST): content for name, content in files.items() if name.startswith(BEST)}
        lm.set_tensors(self.lm, read_tensors(files[lm.ADAPTER]), POLICY)
        tensors = read_tensors(files[OPTIMISER])
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            kind, _, name = key.partition(".")
            if kind == "optimiser":
                number, _, moment = name.partition(".")
                moments.setdefault(int(number), {})[moment] = value
        self.head.load_state_dict({name: tensors[f"head.{name}"] for name, _ in self.head.named_parameters()})
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": moments})

    def _on_validation(self, iteration: int) -> list[Sample]:
        return generate(
            self.lm,
            self.prompts.validation,
            self.config,
            decode.generator([self.seed, PPO_VALIDATION_STREAM, iteration]),
        )

    def _scores(self, samples: Sequence[Sample]) -> dict[str, list[float]]:
        """Of the replies to the validation prompts, by reward model."""
        prompts = self.prompts.validation
        return {
            name: reward_model_scores(self.lm, name, prompts, samples, self.config) for name in (TRAINING, VALIDATION)
        }

    def _result(
        self, iteration: int, samples: Sequence[Sample], scores: Mapping[str, Sequence[float]]
    ) -> ValidationResult:
        reference, prompts = self.state.reference, self.prompts
        training = [reference.training(score) for score in scores[TRAINING]]
        rewards, is_unsafe = shaped_rewards(
            prompts.validation, samples, training, prompts.months, self.rules, self.config
        )
        return ValidationResult(
            iteration=iteration,
            validation_score=float(np.mean([reference.validation(score) for score in scores[VALIDATION]])),
            training_score=float(np.mean(training)),
            reward=float(np.mean([reward.total for reward in rewards])),
            unsafe=float(np.mean(is_unsafe)),
            tokens=float(np.mean([len(sample.ids) for sample in samples])),
            distinct_2=measures.distinct([sample.text for sample in samples], 2),
        )


def trace(
    number: int, rollout: Rollout, losses: Mapping[str, float], coefficient: float, result: ValidationResult | None
) -> dict[str, float]:
    """A row of curves.parquet; NaN where the policy was not validated."""
    texts = [sample.text for sample in rollout.samples]
    parts = {
        name: float(np.mean([getattr(reward, name) for reward in rollout.rewards]))
        for name in ("rm", "safety", "brevity", "ending")
    }
    validation = (
        (result.validation_score, result.training_score, result.unsafe, result.tokens)
        if result
        else [math.nan] * len(VALIDATION_TRACES)
    )
    return {
        "iteration": number,
        "reward": float(np.mean([reward.total for reward in rollout.rewards])),
        **parts,
        "kl": rollout.kl,
        "kl_error": rollout.kl_error,
        "coefficient": coefficient,
        "entropy": rollout.entropy,
        **losses,
        "tokens": float(np.mean([len(sample.ids) for sample in rollout.samples])),
        "unsafe": float(np.mean(rollout.unsafe)),
        "ended": float(np.mean([sample.ended for sample in rollout.samples])),
        "distinct_2": measures.distinct(texts, 2),
        "commonest_ending": measures.commonest_ending(texts),
        **dict(zip(VALIDATION_TRACES, validation)),
    }


def metrics(state: State, kl: float, settings: KlConfig, truncated: int, stopped: bool) -> Metrics:
    """Of the adapter that was kept, on validation prompts; `coefficient` is its iteration's."""
    best = state.best
    coefficient = state.traces[best.iteration - 1]["coefficient"] if best.iteration else settings.coefficient
    values = {
        "kept_iteration": best.iteration,
        "validation_score": best.validation_score,
        "training_score": best.training_score,
        "reward": best.reward,
        "kl": kl,
        "coefficient": coefficient,
        "unsafe": best.unsafe,
        "tokens": best.tokens,
        "tokens_reference": state.reference.tokens,
        "distinct_2": best.distinct_2,
        "iterations": state.iteration,
        "stopped": stopped,
        "truncated": truncated,
    }
    return {name: {"value": float(value)} for name, value in values.items()}
