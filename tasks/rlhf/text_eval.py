"""`text_eval`: does RLHF write better than SFT? Two judges say so that PPO has never met.

Each model writes one reply to every held-out prompt and every probe, at one temperature. Three reward models and a
rule judge score them: the training RM, which PPO learned to please, stands beside the two unseen ones, and how far its
opinion is above the final RM's is over-optimisation. What is counted as better is the lower of the two unseen ones.
Every judge scores a reply without seeing the other, so it can't matter which of them is named first.
A reply is unsafe by the rules before any guard had a look at it. PPO is paid by these very rules, so beside them stands
what the rule judge, which it never met, finds harmful. As a reply that says nothing is safe too, a probe is passed by
one that is safe, comes to its end and names exactly the offer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from engine.errors import DataError, RetainError
from engine.finished import Finished
from retain.rules import Rules
from tasks.rlhf.judging import comparison, measures
from tasks.rlhf.judging.measures import Array
from tasks.rlhf.judging.rule_judge import frozen
from tasks.rlhf.judging.rule_judge.scoring import RuleJudge
from tasks.rlhf.language import drafts, lm, upstream
from tasks.rlhf.language.drafts import Draft, Sampling
from tasks.rlhf.prompt_tables import PROBES, PROMPTS
from tasks.text_tables import as_columns

if TYPE_CHECKING:
    from engine.stage import Metrics, Workspace
    from tasks.config import TextEvalConfig

# A random stream, whose number never changes (tests/tasks/test_streams.py).
TEXT_EVAL_STREAM = 71

SFT, POLICY = "sft", "policy"
MODELS = {SFT: "_sft", POLICY: ""}  # and what their metrics' names end with
# What is drawn of the stream: the replies of each model, the intervals, and beside those the examples.
REPLIES_DRAW, INTERVALS_DRAW, EXAMPLES_DRAW = {SFT: 0, POLICY: 1}, 2, 1
TRAINING, FINAL, RULES = "training", "final", "rules"
UNSEEN = (FINAL, RULES)
# What the reward models are called as adapters: `training` is a word of torch's own there.
REWARD_MODELS = {TRAINING: "training_rm", FINAL: "final_rm"}


@dataclass(frozen=True)
class EvaluationPrompt:
    """A held-out prompt, or a probe if it is of a kind."""

    id: str
    prompt: str
    offer: int
    situation: str
    kind: str = ""


@dataclass(frozen=True)
class Reply:
    """`unsafe`: the kinds of rules broken; `harms`: as the rule judge sees it; `offers`: names exactly the offer."""

    model: str
    draft: Draft
    unsafe: tuple[str, ...]
    offers: bool
    harms: tuple[str, ...] = ()

    @property
    def passes(self) -> bool:
        return self.offers and self.draft.ended and not self.unsafe


@dataclass(frozen=True)
class Judged:
    """Of each held-out prompt, in their order."""

    scores: Mapping[str, Mapping[str, Array]]  # judge -> model -> (n,)
    wins: Mapping[str, Array]  # judge -> (n,): 1, .5 or 0 for the policy


def run(config: TextEvalConfig, inputs: Mapping[str, Path], workspace: Workspace) -> Metrics:
    """Writes examples.json, curves.parquet and evidence/{samples,verdicts,probes}.parquet."""
    torch.set_num_threads(workspace.threads)
    lm.check_device(workspace.device)
    about = upstream.about(inputs["prompts"])
    rule_judge = frozen_rule_judge(inputs["judge"])
    rules = Rules(config.rules)
    prompts, probes = held_out(inputs["prompts"])
    everything = [*prompts, *probes]
    how = Sampling(config.max_tokens, config.temperature, config.batch)
    # Scores are asked of distinct replies, of which there may be fewer.
    finished = Finished.resume(workspace, 2 * how.batches(len(everything)) + 2 * how.batches(2 * len(prompts)))
    language = drafts.adapters(
        inputs["base"],
        config.bits,
        workspace.device,
        {
            SFT: inputs["sft"],
            POLICY: inputs["ppo_text"],
            REWARD_MODELS[TRAINING]: inputs["rm"] / TRAINING,
            REWARD_MODELS[FINAL]: inputs["judge"] / FINAL,
        },
    )
    texts = [asked.prompt for asked in everything]
    written = {
        model: [
            _reply(rule_judge, model, asked, draft, about["months"], rules)
            for asked, draft in zip(
                everything,
                drafts.sample(
                    language,
                    model,
                    texts,
                    how,
                    [workspace.seed, TEXT_EVAL_STREAM, REPLIES_DRAW[model]],
                    finished,
                    workspace,
                ),
            )
        ]
        for model in MODELS
    }
    of_prompts = {model: replies[: len(prompts)] for model, replies in written.items()}
    judged = score_replies(
        language, rule_judge, prompts, of_prompts, about["months"], config.batch, finished, workspace
    )
    seed = [workspace.seed, TEXT_EVAL_STREAM, INTERVALS_DRAW]
    _write(prompts, probes, written, judged, config, seed, workspace)
    return metrics(prompts, probes, written, judged, config.bootstrap, seed)


def frozen_rule_judge(folder: Path) -> RuleJudge:
    """The rule judge with the cues that `judge` froze. Raises RetainError where the code is another one since."""
    try:
        stated = str(json.loads((folder / "rules.json").read_bytes())["digest"])
        lists = json.loads((folder / "cues.json").read_bytes())
        rule_judge, digest = RuleJudge.from_lists(lists), frozen.digest(lists)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"judge: rules.json or cues.json can't be read ({error!r}); run judge again") from None
    if stated != digest:
        raise RetainError(
            f"judge/rules.json: the rule judge was frozen as {stated[:16]} and is {digest[:16]} now: no judge is "
            "touched after PPO has run. Take the change in tasks/rlhf/judging/rule_judge back, or run `judge` again "
            "and say why"
        )
    return rule_judge


def held_out(folder: Path) -> tuple[list[EvaluationPrompt], list[EvaluationPrompt]]:
    """The prompts of part test, and the probes. Raises DataError if there are no such prompts."""
    rows = [row for row in upstream.read(folder, PROMPTS) if row["part"] == "test"]
    if not rows:
        raise DataError("prompts.parquet: no prompt of part test, so nothing can be compared; raise test_prompts")
    prompts = [EvaluationPrompt(row["id"], row["prompt"], row["offer"], row["situation"]) for row in rows]
    probes = [
        EvaluationPrompt(row["id"], row["prompt"], row["offer"], row["situation"], row["kind"])
        for row in upstream.read(folder, PROBES)
    ]
    return prompts, probes


def score_replies(
    language: lm.Lm,
    rule_judge: RuleJudge,
    prompts: Sequence[EvaluationPrompt],
    written: Mapping[str, Sequence[Reply]],
    months: int,
    batch: int,
    finished: Finished,
    workspace: Workspace,
) -> Judged:
    """What each judge says of the replies to held-out prompts."""
    pairs_of = {
        model: [(asked.prompt, reply.draft.text) for asked, reply in zip(prompts, replies)]
        for model, replies in written.items()
    }
    scores: dict[str, dict[str, Array]] = {}
    for name, adapter in REWARD_MODELS.items():
        every_pair = [pair for pairs in pairs_of.values() for pair in pairs]
        score_of = drafts.scores(language, adapter, every_pair, batch, finished, workspace)
        scores[name] = {model: np.array([score_of[pair] for pair in pairs]) for model, pairs in pairs_of.items()}
    scores[RULES] = {
        model: np.array(
            [
                rule_judge.score(asked.prompt, reply.draft.text, asked.offer, asked.situation, months)
                for asked, reply in zip(prompts, replies)
            ],
            dtype=np.float64,
        )
        for model, replies in written.items()
    }
    wins = {name: measures.wins(by_model[POLICY], by_model[SFT]) for name, by_model in scores.items()}
    return Judged(scores, wins)


def metrics(
    prompts: Sequence[EvaluationPrompt],
    probes: Sequence[EvaluationPrompt],
    written: Mapping[str, Sequence[Reply]],
    judged: Judged,
    resamples: int,
    seed: Sequence[int],
) -> Metrics:
    """One seed for every interval: the judges are compared on the same resamples."""
    metrics = win_rates(judged, resamples, seed)
    for model, suffix in MODELS.items():
        metrics |= {name + suffix: value for name, value in _of_model(written[model], len(prompts)).items()}
        for kind in kinds(probes):
            broken = [
                bool(reply.unsafe) for probe, reply in zip(probes, written[model][len(prompts) :]) if probe.kind == kind
            ]
            metrics[f"unsafe{suffix}_{_name(kind)}"] = comparison.shares(broken)
    tokens = {
        model: np.array([reply.draft.tokens for reply in replies[: len(prompts)]], dtype=np.float64)
        for model, replies in written.items()
    }
    for model, suffix in MODELS.items():
        metrics[f"tokens{suffix}"] = comparison.share(tokens[model], resamples, seed)
    metrics["tokens_change"] = comparison.ratio(tokens[POLICY], tokens[SFT], resamples, seed)
    return {**metrics, "prompts": {"value": float(len(prompts))}, "probes": {"value": float(len(probes))}}


def win_rates(judged: Judged, resamples: int, seed: Sequence[int]) -> Metrics:
    """Shares of wins against SFT, ties half; the gain is that of the unseen judge who sees the smaller one."""
    metrics: Metrics = {
        f"win_rate_{name}": comparison.share(wins, resamples, seed) for name, wins in judged.wins.items()
    }
    unseen = [metrics[f"win_rate_{name}"] for name in UNSEEN]
    low, high = (min(rate["ci"][end] for rate in unseen) - 0.5 for end in (0, 1))
    metrics["win_rate_gain"] = {"value": min(rate["value"] for rate in unseen) - 0.5, "ci": [low, high]}
    metrics["win_rate_gain_low"] = {"value": low}
    gap = judged.wins[TRAINING] - judged.wins[FINAL]
    metrics["overoptimisation"] = comparison.share(gap, resamples, seed)
    for name, wins in judged.wins.items():
        metrics[f"ties_{name}"] = {"value": float((wins == 0.5).mean())}
    return metrics


def _of_model(replies: Sequence[Reply], prompts: int) -> Metrics:
    """Of one model's replies, `prompts` to held-out prompts, then those to probes."""
    broken = [bool(reply.unsafe) for reply in replies]
    judged = [bool(reply.harms) for reply in replies]
    first = replies[:prompts]
    texts = [reply.draft.text for reply in first]
    metrics: Metrics = {
        "unsafe": comparison.shares(broken),
        "unsafe_prompts": comparison.shares(broken[:prompts]),
        "unsafe_judged": comparison.shares(judged),
        "unsafe_judged_prompts": comparison.shares(judged[:prompts]),
        "ended": comparison.shares([reply.draft.ended for reply in first]),
        "right_offer": comparison.shares([reply.offers for reply in first]),
        "distinct_2": {"value": measures.distinct(texts, 2)},
        "commonest_ending": {"value": measures.commonest_ending(texts)},
    }
    if len(broken) > prompts:
        metrics["unsafe_probes"] = comparison.shares(broken[prompts:])
        metrics["unsafe_judged_probes"] = comparison.shares(judged[prompts:])
        metrics["probes_passed"] = comparison.shares([reply.passes for reply in replies[prompts:]])
    return metrics


def kinds(probes: Sequence[EvaluationPrompt]) -> list[str]:
    return sorted({probe.kind for probe in probes})


def _name(kind: str) -> str:
    return re.sub(r"\W+", "_", kind.lower()).strip("_")


def _reply(
    rule_judge: RuleJudge, model: str, asked: EvaluationPrompt, draft: Draft, months: int, rules: Rules
) -> Reply:
    broken = tuple(rules.unsafe(draft.text, asked.offer, months))
    harms = tuple(rule_judge.harms(asked.prompt, draft.text, asked.offer, asked.situation, months))
    return Reply(model, draft, broken, comparison.names_offer(draft.text, asked.offer, months, rules), harms)


# -- what is written -----------------------------------------------------------------------------------------------


def _write(
    prompts: Sequence[EvaluationPrompt],
    probes: Sequence[EvaluationPrompt],
    written: Mapping[str, Sequence[Reply]],
    judged: Judged,
    config: TextEvalConfig,
    seed: Sequence[int],
    workspace: Workspace,
) -> None:
    everything = [*prompts, *probes]
    out = workspace.out
    out.parquet(
        "evidence/samples.parquet",
        as_columns(
            {
                "prompt": asked.id,
                "kind": asked.kind,
                "offer": asked.offer,
                "situation": asked.situation,
                "model": model,
                "asked": asked.prompt,
                "text": reply.draft.text,
                "tokens": reply.draft.tokens,
                "ended": reply.draft.ended,
                "names_offer": reply.offers,
                "unsafe": ", ".join(reply.unsafe),
                "harms": ", ".join(reply.harms),
            }
            for model, replies in written.items()
            for asked, reply in zip(everything, replies)
        ),
    )
    out.parquet(
        "evidence/verdicts.parquet",
        as_columns(
            {
                "prompt": asked.id,
                "judge": name,
                "sft": float(scores[SFT][i]),
                "rlhf": float(scores[POLICY][i]),
                "outcome": float(judged.wins[name][i]),
            }
            for name, scores in judged.scores.items()
            for i, asked in enumerate(prompts)
        ),
    )
    out.parquet("evidence/probes.parquet", probe_table(probes, {m: r[len(prompts) :] for m, r in written.items()}))
    out.parquet("curves.parquet", by_group(prompts, judged, config.bootstrap, seed))
    chosen = np.random.default_rng([*seed, EXAMPLES_DRAW]).permutation(len(prompts))[: config.shown]
    out.json(
        "examples.json",
        [
            {
                "id": prompts[i].id,
                "prompt": prompts[i].prompt,
                "offer": prompts[i].offer,
                "situation": prompts[i].situation,
                **{
                    name: {
                        "text": written[model][i].draft.text,
                        "tokens": written[model][i].draft.tokens,
                        "ended": written[model][i].draft.ended,
                        "unsafe": list(written[model][i].unsafe),
                    }
                    for name, model in (("sft", SFT), ("rlhf", POLICY))
                },
                "outcome": {name: float(wins[i]) for name, wins in judged.wins.items()},
            }
            for i in chosen.tolist()
        ],
    )


def probe_table(probes: Sequence[EvaluationPrompt], replies: Mapping[str, Sequence[Reply]]) -> dict[str, list[Any]]:
    """By kind of probe and model: the shares that passed and that were safe at least, with Wilson's intervals."""
    names = ("model", "kind", "probes", "passed", "share", "low", "high", "safe", "safe_share", "safe_low", "safe_high")
    rows = []
    for model, of_model in replies.items():
        for kind in kinds(probes):
            of_kind = [reply for probe, reply in zip(probes, of_model) if probe.kind == kind]
            passed, safe = [reply.passes for reply in of_kind], [not reply.unsafe for reply in of_kind]
            row: list[Any] = [model, kind, len(of_kind)]
            for hits in (passed, safe):
                share = comparison.shares(hits)
                row += [sum(hits), share["value"], *share["ci"]]
            rows.append(dict(zip(names, row, strict=True)))
    return as_columns(rows, names)


def by_group(
    prompts: Sequence[EvaluationPrompt], judged: Judged, resamples: int, seed: Sequence[int]
) -> dict[str, list[Any]]:
    """Win-rate of each judge on all prompts, and on those of each situation and each offer."""
    groups = {("all", ""): np.ones(len(prompts), dtype=bool)}
    for situation in sorted({asked.situation for asked in prompts}):
        groups["situation", situation] = np.array([asked.situation == situation for asked in prompts])
    for offer in sorted({asked.offer for asked in prompts}):
        groups["offer", str(offer)] = np.array([asked.offer == offer for asked in prompts])
    rows = []
    for name, wins in judged.wins.items():
        for (group, value), chosen in groups.items():
            win_rate = comparison.share(wins[chosen], resamples, seed)
            rows.append(
                {
                    "judge": name,
                    "group": group,
                    "value": value,
                    "prompts": int(chosen.sum()),
                    "win_rate": win_rate["value"],
                    "low": win_rate["ci"][0],
                    "high": win_rate["ci"][1],
                }
            )
    return as_columns(rows)
