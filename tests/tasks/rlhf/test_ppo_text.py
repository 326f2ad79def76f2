"""PPO on a tiny model: what it computes, that it learns, when it stops, and that it goes on where it was."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load as read_tensors
from safetensors.torch import save as write_tensors
from safetensors.torch import save_file
from torch import nn

from engine.checkpoint import Checkpoint, Checkpointer, Preempted
from engine.claim import acquire
from engine.errors import DataError, RetainError
from engine.stage import Workspace
from engine.store import FolderStore
from tasks.config import KlConfig, TextPpoConfig
from tasks.rlhf import ppo_text
from tasks.rlhf.judging import measures
from tasks.rlhf.judging.rewards import Scale
from tasks.rlhf.language import decode, lm
from tasks.rlhf.prompt_tables import PROMPTS
from tests.engine.processes import killed_at
from tests.tasks.conftest import Checkpoints, make_workspace
from tests.tasks.rlhf.conftest import make_base
from tests.tasks.rlhf.tables import write
from tests.words import RULES, WORDS

WORDS_OF_RULES = WORDS.rules.model_dump(mode="json")
LORA = lm.Shape(r=4, alpha=8, dropout=0.1, targets="attention")
VOCABULARY = ["keep", "your", "plan", "and", "save", "on", "every", "bill", "with", "us", "today"]


def config(**changes: Any) -> TextPpoConfig:
    found = {
        "rules": WORDS_OF_RULES,
        "kl": {"target": 0.15, "coefficient": 0.1, "horizon": 100, "max_change": 0.2},
        "rewards": {"rm": 1.0, "safety": 2.0, "brevity": 0.5, "ending": 1.0, "clip": 4.0},
        "stops": {
            "window": 100,
            "kl_errors": 4.0,
            "kl_margin": 0.01,
            "max_kl_ratio": 4.0,
            "min_distinct": 0.0,
            "max_length_ratio": 10.0,
            "min_length_ratio": 0.0,
            "max_validation_drop": 100.0,
        },
        "max_tokens": 8,
        "max_prompt": 24,
        "iterations": 5,
        "batch": 6,
        "minibatches": 2,
        "epochs": 2,
        "learning_rate": 0.003,  # its fourth iteration is the one that is kept
        "max_gradient": 1.0,
        "gae_lambda": 0.95,
        "clip": 0.2,
        "value_weight": 0.1,
        "temperature": 1.0,
        "bits": 32,
        "validate_every": 2,
    }
    for name, value in changes.items():
        found[name] = {**found[name], **value} if isinstance(value, dict) else value
    return TextPpoConfig.model_validate_json(json.dumps(found))


def adapter(language: lm.Lm, seed: int, folder: Path) -> None:
    """One that does something, as B is drawn too."""
    lm.new_adapter(language, LORA, seed)
    generator = torch.Generator().manual_seed(seed)
    for key, value in language.model.named_parameters():
        if "lora_B" in key:
            value.data.copy_(torch.randn(value.shape, generator=generator) / 4)
    folder.mkdir(parents=True)
    for name, content in lm.adapter_files(language, LORA).items():
        (folder / name).write_bytes(content)


def opinionated(base: Path) -> Path:
    """Words are some way apart: as it was drawn, no adapter could make one much likelier than another."""
    weights = read_tensors((base / lm.WEIGHTS).read_bytes())
    weights["model.decoder.embed_tokens.weight"] *= 1.5
    save_file(weights, base / lm.WEIGHTS, metadata={"format": "pt"})
    return base


def ppo_inputs(root: Path) -> dict[str, Path]:
    base = opinionated(make_base(root / "base"))
    adapter(lm.load(base, 32, "cpu"), 1, root / "sft")
    for seed, name in enumerate(("training", "validation"), start=2):
        adapter(lm.load_reward(base, 32, "cpu", seed), seed, root / "rm" / name)
    rng = random.Random(0)
    parts = ["train"] * 9 + ["validation"] * 5 + ["test"]
    rows = [
        {"id": str(at), "prompt": prompt, "offer": offer, "part": part}
        for at, (prompt, offer, part) in enumerate(
            zip(
                [" ".join(rng.choices(VOCABULARY, k=rng.randint(1, 4))) for _ in parts],
                [rng.choice([0, 10]) for _ in parts],
                parts,
            )
        )
    ]
    write(root / "prompts", PROMPTS, rows)
    (root / "prompts" / "about.json").write_text(json.dumps({"months": 12}))
    return {"base": base, **{name: root / name for name in ("sft", "rm", "prompts")}}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return ppo_inputs(tmp_path_factory.mktemp("ppo"))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def run(folder: Path, inputs: Mapping[str, Path], checkpoints: Checkpoints | None = None, **changes: Any) -> Any:
    """Metrics, and the artifact's files."""
    metrics = ppo_text.run(config(**changes), inputs, make_workspace(folder, checkpoints))
    return {name: metric["value"] for name, metric in metrics.items()}, files(folder)


@pytest.fixture(scope="module")
def undisturbed(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    torch.set_num_threads(1)
    return run(tmp_path_factory.mktemp("undisturbed"), inputs)[1]


def curves(folder: Path) -> dict[str, list[float]]:
    found: dict[str, list[float]] = pq.read_table(folder / "curves.parquet").to_pydict()
    return found


# -- what is computed ------------------------------------------------------------------------------------------------


def test_advantages_are_those_of_a_hand() -> None:
    # Errors 1 + .2 - .5 = .7, 2 + .4 - .2 = 2.2, 3 - .4 = 2.6; then 2.6, 2.2 + .5 x 2.6 = 3.5, .7 + .5 x 3.5 = 2.45.
    found = ppo_text.gae(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 0.2, 0.4]), 0.5)
    assert found.tolist() == pytest.approx([2.45, 3.5, 2.6])


def test_without_a_critic_and_with_the_whole_trace_they_are_what_is_still_to_come() -> None:
    assert ppo_text.gae(torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3), 1.0).tolist() == [6.0, 5.0, 3.0]


@pytest.mark.parametrize(
    ("kl", "factor"),
    [(0.15, 1.0), (0.165, 1.001), (10.0, 1.002), (0.135, 0.999), (0.0, 0.998), (-1.0, 0.998)],
)
def test_the_coefficient_moves_towards_the_target_and_no_faster_than_a_fifth(kl: float, factor: float) -> None:
    assert ppo_text.adapted(
        0.5, kl, 10, KlConfig(target=0.15, coefficient=0.1, horizon=1000, max_change=0.2)
    ) == pytest.approx(0.5 * factor)


def test_prompts_come_in_turn_and_in_another_order_each_time() -> None:
    prompts = [ppo_text.TokenisedPrompt(str(at), [at], 0) for at in range(7)]
    seen = [one.text for iteration in range(7) for one in ppo_text.at_iteration(prompts, iteration, 5, seed=3)]
    epochs = [seen[at : at + 7] for at in range(0, 35, 7)]
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5
    other = [one.text for one in ppo_text.at_iteration(prompts, 0, 5, seed=4)]
    assert other != seen[:5]


def test_parts_are_about_equal_and_hold_everything_once() -> None:
    assert ppo_text.split(list(range(7)), 3) == [[0, 1], [2, 3], [4, 5, 6]]
    assert ppo_text.split([4, 5], 3) == [[4], [5]]


def learner(inputs: dict[str, Path], **changes: Any) -> ppo_text.Learner:
    found = ppo_text.Learner.start(config(**changes), inputs, "cpu", 42)
    found.measure_reference()
    return found


def test_a_rollout_pays_kl_by_the_token_and_the_reward_at_the_end(inputs: dict[str, Path]) -> None:
    found = learner(inputs)
    generator = torch.Generator().manual_seed(0)
    for parameter in found.optimiser.param_groups[0]["params"]:
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)  # so that it is not the reference
    asked = found.prompts.training[:4]
    samples = ppo_text.generate(found.lm, asked, found.config, generator)
    # Without a critic and with lambda 1, returns are all that is paid from a token on.
    whole = config(gae_lambda=1.0)
    rollout = ppo_text.score(found.lm, found.head, asked, samples, Scale(0.0, 1.0), 12, RULES, 0.3, whole)
    kls = []
    for at, (prompt, sample) in enumerate(zip(asked, samples)):
        row = [(prompt.ids, sample.ids)]
        with torch.no_grad():
            of_policy = lm.log_probs(found.lm, row)[0]
            with lm.using(found.lm, "reference"):
                of_reference = lm.log_probs(found.lm, row)[0]
        kl = of_policy - of_reference
        kls.append(kl)
        wanted = rollout.rewards[at].total - 0.3 * kl.flip(0).cumsum(0).flip(0)
        assert torch.allclose(rollout.returns[at], wanted, atol=1e-4)
        assert torch.allclose(rollout.logs[at], of_policy, atol=1e-5)
        text = found.lm.text.row(prompt.text, sample.text, 32)
        judged = float(lm.scores(found.lm, "training_rm", [text]))
        assert rollout.rewards[at].rm == pytest.approx(min(max(judged, -4), 4), abs=1e-5)
    assert rollout.kl == pytest.approx(float(torch.cat(kls).mean()), abs=1e-5)
    assert abs(rollout.kl) > 0.01
    flat = torch.cat(rollout.advantages)
    assert float(flat.mean()) == pytest.approx(0, abs=1e-5)
    assert float(flat.std(correction=0)) == pytest.approx(1, abs=1e-4)


def test_nothing_but_the_policy_and_the_values_is_trained(inputs: dict[str, Path]) -> None:
    found = learner(inputs)
    before = {name: value.detach().clone() for name, value in found.lm.model.named_parameters()}
    found.iterate()
    moved = {name for name, value in found.lm.model.named_parameters() if not torch.equal(value, before[name])}
    assert moved
    assert all(".policy." in name for name in moved)
    assert float(found.head.weight.detach().abs().max()) > 0


def test_the_value_head_does_not_pull_at_the_policy(inputs: dict[str, Path]) -> None:
    found = learner(inputs)
    asked = found.prompts.training[:4]
    samples = ppo_text.generate(found.lm, asked, found.config, torch.Generator().manual_seed(0))
    rollout = ppo_text.score(found.lm, found.head, asked, samples, Scale(0.0, 1.0), 12, RULES, 0.3, found.config)
    rollout = replace(rollout, advantages=tuple(torch.zeros_like(one) for one in rollout.advantages))
    before = lm.adapter_files(found.lm, found.lora, "policy")
    nn.init.ones_(found.head.weight)
    ppo_text.update(found.lm, found.head, found.optimiser, rollout, found.config, np.random.default_rng(0))
    assert lm.adapter_files(found.lm, found.lora, "policy") == before


def test_a_wrong_value_does_not_shorten_the_policys_step(inputs: dict[str, Path]) -> None:
    """However wrong the values are, the policy's step is the same."""
    after = []
    for error in (0.0, 1000.0):
        found = learner(inputs)
        asked = found.prompts.training[:4]
        samples = ppo_text.generate(found.lm, asked, found.config, torch.Generator().manual_seed(0))
        rollout = ppo_text.score(found.lm, found.head, asked, samples, Scale(0.0, 1.0), 12, RULES, 0.3, found.config)
        rollout = replace(rollout, returns=tuple(one + error for one in rollout.returns))
        before = lm.adapter_files(found.lm, found.lora, "policy")
        ppo_text.update(found.lm, found.head, found.optimiser, rollout, found.config, np.random.default_rng(0))
        after.append(lm.adapter_files(found.lm, found.lora, "policy"))
        assert after[-1] != before
    assert after[0] == after[1]


def test_a_long_prompt_loses_its_beginning_and_is_counted(inputs: dict[str, Path], tmp_path: Path) -> None:
    text = lm.load_text(inputs["base"])
    whole = ppo_text.read_prompts(inputs["prompts"], text, 1000)
    cut = ppo_text.read_prompts(inputs["prompts"], text, 20)
    assert whole.truncated == 0
    assert cut.truncated == sum(len(prompt.ids) > 20 for prompt in [*whole.training, *whole.validation]) > 0
    assert [prompt.ids for prompt in cut.training] == [prompt.ids[-20:] for prompt in whole.training]
    assert run(tmp_path, inputs, iterations=1, max_prompt=20)[0]["truncated"] == cut.truncated


# -- what it learns --------------------------------------------------------------------------------------------------


def test_it_learns_what_is_rewarded(inputs: dict[str, Path], tmp_path: Path) -> None:
    """Brevity alone: fewer tokens. And the stage keeps what the validation RM liked best, of all validations."""
    alone = {"rm": 0.0, "safety": 0.0, "brevity": 4.0, "ending": 0.0}
    found, _ = run(
        tmp_path,
        inputs,
        rewards=alone,
        iterations=12,
        batch=32,
        max_tokens=24,
        max_prompt=40,
        kl={"coefficient": 0.001},
    )
    traces = curves(tmp_path)
    assert np.mean(traces["tokens"][-3:]) < 0.7 * np.mean(traces["tokens"][:3])
    assert np.mean(traces["reward"][-3:]) > np.mean(traces["reward"][:3]) + 0.5
    assert np.mean(traces["kl"][-3:]) > 0.15, "so the coefficient rises in the end"
    assert traces["kl"][0] == pytest.approx(0, abs=1e-6)
    assert traces["coefficient"][1] < traces["coefficient"][0]
    assert traces["coefficient"][-1] > traces["coefficient"][-2]
    validations = [(score, at) for score, at in zip(traces["validation_score"], traces["iteration"]) if score == score]
    assert [at for _, at in validations] == [2, 4, 6, 8, 10, 12]
    assert (found["validation_score"], found["kept_iteration"]) == max([(0.0, 0), *validations])


def test_where_nothing_is_better_the_sft_adapter_is_kept(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter(range(1000, 0, -1))

    def worse(language: object, name: str, rows: list[object]) -> torch.Tensor:
        return torch.full((len(rows),), float(next(scores)))

    monkeypatch.setattr(lm, "scores", worse)
    found, artifact = run(tmp_path, inputs, iterations=2)
    assert found["kept_iteration"] == 0
    assert found["validation_score"] == pytest.approx(0)
    assert {name: artifact[name] for name in (lm.ADAPTER, lm.ADAPTER_ABOUT)} == files(inputs["sft"])


# -- when it stops ---------------------------------------------------------------------------------------------------


def test_reward_hacking_ends_the_training_and_says_why(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measures, "distinct", lambda texts, n: 0.1)
    stops = {"window": 3, "min_distinct": 0.15}
    found, artifact = run(tmp_path, inputs, stops=stops, iterations=20)
    stop = json.loads(artifact["stop.json"])
    assert found["stopped"] == 1
    assert found["iterations"] == stop["iteration"] == 3
    assert "distinct-2" in stop["reason"]
    assert len(curves(tmp_path)["reward"]) == 3
    assert found["kept_iteration"] in (0, 2), "the iteration that it was stopped at is not kept"


def test_a_stopped_training_stays_stopped_when_it_dies_before_its_artifact(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measures, "distinct", lambda texts, n: 0.1)
    stops = {"window": 2, "min_distinct": 0.15}
    kept = Checkpoints()
    _, artifact = run(tmp_path / "first", inputs, kept, stops=stops)
    assert kept.saved is not None
    assert kept.saved.step == 2
    assert run(tmp_path / "second", inputs, Checkpoints(saved=kept.saved), stops=stops)[1] == artifact


def test_a_loss_that_is_no_number_is_an_error_with_its_iteration_and_the_last_checkpoint(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = ppo_text.gae, iter(range(10_000))

    def broken(rewards: torch.Tensor, values: torch.Tensor, trace: float) -> torch.Tensor:
        found = whole(rewards, values, trace)
        return found * torch.nan if next(calls) >= 3 * 6 else found

    monkeypatch.setattr(ppo_text, "gae", broken)
    kept = Checkpoints()
    with pytest.raises(RetainError, match=r"iteration 4; the last good checkpoint is of iteration 2.*learning_rate"):
        run(tmp_path, inputs, kept)
    assert kept.saved is not None
    assert torch.isfinite(torch.cat([v.flatten() for v in read_tensors(kept.saved.files[lm.ADAPTER]).values()])).all()


def test_a_policy_that_gives_no_probabilities_is_an_error_with_its_iteration_and_the_last_checkpoint(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ppo_text.update

    def broken(language: lm.Lm, *arguments: Any) -> dict[str, float]:
        figures = whole(language, *arguments)
        if len(updated) == 2:
            for name, value in language.model.named_parameters():
                if "lora_B.policy" in name:
                    value.data.fill_(torch.inf)
        updated.append(figures)
        return figures

    updated: list[dict[str, float]] = []
    monkeypatch.setattr(ppo_text, "update", broken)
    with pytest.raises(RetainError, match=r"no probabilities.* in iteration 4; .* is of iteration 2.*learning_rate"):
        run(tmp_path, inputs)


def test_a_reward_model_that_gives_no_number_is_an_error(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lm, "scores", lambda language, name, rows: torch.full((len(rows),), torch.nan))
    with pytest.raises(RetainError, match=r"training RM.*, before the first iteration: what sft or rm made is broken"):
        run(tmp_path, inputs)


def test_no_prompt_of_a_part_is_an_error(inputs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    table = pq.read_table(inputs["prompts"] / "prompts.parquet")
    pq.write_table(table.filter(pa.compute.equal(table["part"], "train")), tmp_path / "prompts" / "prompts.parquet")
    (tmp_path / "prompts" / "about.json").write_text('{"months": 12}')
    with pytest.raises(DataError, match="part validation"):
        run(tmp_path / "out", {**inputs, "prompts": tmp_path / "prompts"})


def test_more_tokens_than_the_model_reads_are_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(RetainError, match="max_prompt and max_tokens: 518 tokens are more than the 512"):
        run(tmp_path, inputs, max_prompt=510)


# -- that it goes on where it was ------------------------------------------------------------------------------------


def test_equal_runs_have_equal_bytes(inputs: dict[str, Path], tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    assert run(tmp_path, inputs)[1] == undisturbed
    assert set(undisturbed) == {lm.ADAPTER, lm.ADAPTER_ABOUT, "curves.parquet", "stop.json"}


def looks_of_one_iteration(folder: Path, inputs: Mapping[str, Path]) -> int:
    """Looks whether to stop, one at each layer passed through, in one iteration and all around it."""
    whole = Checkpoints()
    run(folder, inputs, whole, iterations=1)
    return whole.stopping.looks


def test_asked_to_stop_it_saves_the_iteration_it_was_in(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(ppo_text.Learner, "kl_of_best", lambda learner: 0.0)
        looks = looks_of_one_iteration(tmp_path / "iteration", inputs)
    kept = Checkpoints(stop_at_look=looks - 1)  # in its last validation
    with pytest.raises(Preempted):
        run(tmp_path / "stopped", inputs, kept, iterations=1)
    assert kept.saved is not None
    assert kept.saved.step == 0
    assert kept.saved.files == learner(inputs).files()


def test_a_checkpoint_is_due_by_time_too(inputs: dict[str, Path], tmp_path: Path) -> None:
    for seconds, steps in ((1e-9, [0, 1, 2, 3]), (1000, [0])):
        kept = Checkpoints(every_steps=100, every_s=seconds)
        run(tmp_path / str(seconds), inputs, kept, iterations=3)
        assert [checkpoint.step for checkpoint in kept.kept] == steps


def better(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every validation is liked better than the one before, so the last adapter is kept."""
    scores = iter(range(10_000))
    monkeypatch.setattr(lm, "scores", lambda language, name, rows: torch.arange(len(rows)) / 10 + float(next(scores)))


def test_asked_to_stop_while_the_kept_adapter_is_measured_it_has_nothing_to_train_again(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    better(monkeypatch)
    found, artifact = run(tmp_path / "whole", inputs, iterations=1)
    assert found["kept_iteration"] == 1
    kept = Checkpoints(stop_at_look=looks_of_one_iteration(tmp_path / "looks", inputs) - 1)
    better(monkeypatch)  # from the beginning again
    with pytest.raises(Preempted):
        run(tmp_path / "stopped", inputs, kept, iterations=1)
    assert kept.saved is not None
    assert kept.saved.step == 1
    monkeypatch.setattr(ppo_text.Learner, "iterate", lambda learner: pytest.fail("trained again"))
    assert run(tmp_path / "resumed", inputs, Checkpoints(saved=kept.saved), iterations=1) == (found, artifact)


def test_kl_is_that_of_the_adapter_kept(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of the batch that it learned from, which an adapter before it wrote."""
    better(monkeypatch)
    found, _ = run(tmp_path, inputs, iterations=2, batch=32)
    assert found["kept_iteration"] == 2
    language = lm.load(inputs["base"], 32, "cpu")
    for name, folder in (("policy", tmp_path), ("reference", inputs["sft"])):
        lm.load_adapter(language, folder, name)
    prompts = ppo_text.read_prompts(inputs["prompts"], language.text, 24).validation
    lm.use(language, "policy")
    samples = ppo_text.generate(
        language, prompts, config(batch=32), decode.generator([42, ppo_text.PPO_VALIDATION_STREAM, 2])
    )
    rows = [(prompt.ids, sample.ids) for prompt, sample in zip(prompts, samples)]
    with torch.no_grad():
        of_policy = lm.log_probs(language, rows)[0]
        with lm.using(language, "reference"):
            of_reference = lm.log_probs(language, rows)[0]
    assert found["kl"] == pytest.approx(float((of_policy - of_reference).mean()), abs=1e-5)
    assert abs(found["kl"]) > 0.001


def test_a_minibatch_in_several_passes_has_the_gradient_of_one(
    inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gradient(room: int) -> list[torch.Tensor]:
        monkeypatch.setattr(lm, "ROOM", {"cpu": room})
        found = learner(inputs)
        asked = found.prompts.training[:6]
        samples = ppo_text.generate(found.lm, asked, found.config, torch.Generator().manual_seed(0))
        rollout = ppo_text.score(found.lm, found.head, asked, samples, Scale(0.0, 1.0), 12, RULES, 0.3, found.config)
        assert (len(lm.passes(found.lm, rollout.rows)) > 2) == (room == 60)
        figures = ppo_text.gradients(found.lm, found.head, rollout.rows, rollout.targets(range(6)), found.config)
        assert figures["clip_share"] == 0, "nothing has moved yet"
        return [value.grad for value in found.optimiser.param_groups[0]["params"]]

    for one, several in zip(gradient(10_000), gradient(60), strict=True):
        assert torch.allclose(one, several, atol=1e-6)
        assert several.abs().max() > 0 or one.abs().max() == 0


def attempt(folder: Path, number: int, inputs: Mapping[str, Path]) -> None:
    """As the driver does it, on a store."""
    store = FolderStore(folder / "store")
    store.delete("claim.json")
    claim = acquire(store, "claim.json", number, 30.0)
    assert claim is not None
    workspace: Workspace = make_workspace(folder / str(number))
    workspace.checkpoints = Checkpointer(store, "checkpoints", claim)
    ppo_text.run(config(), inputs, workspace)


PLACES = (
    "checkpoint.save",
    "checkpoint.save@2",
    "checkpoint.seal@2",
    "checkpoint.prune@3",
    "store.write@9",
    "store.rename@9",
    "store.renamed@9",
)


@pytest.mark.parametrize("place", [PLACES[2], *(pytest.param(one, marks=pytest.mark.slow) for one in PLACES)])
def test_killed_at_a_named_place_it_ends_alike(
    inputs: dict[str, Path], tmp_path: Path, undisturbed: dict[str, bytes], place: str
) -> None:
    assert killed_at(place, attempt, tmp_path, 1, inputs) == -signal.SIGKILL
    attempt(tmp_path, 2, inputs)
    assert files(tmp_path / "2") == undisturbed


@pytest.fixture(scope="module")
def halfway(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """The checkpoint of iteration 4 of 5."""
    torch.set_num_threads(1)
    kept = Checkpoints()
    run(tmp_path_factory.mktemp("halfway"), inputs, kept)
    assert kept.saved is not None
    assert kept.saved.step == 4
    return kept.saved


def without_moments(files: dict[str, bytes]) -> None:
    tensors = {n: v for n, v in read_tensors(files[ppo_text.OPTIMISER]).items() if n.startswith("head.")}
    files[ppo_text.OPTIMISER] = write_tensors(tensors)


def without_values(files: dict[str, bytes]) -> None:
    tensors = read_tensors(files[ppo_text.OPTIMISER])
    files[ppo_text.OPTIMISER] = write_tensors(
        {name: torch.zeros_like(value) if name.startswith("head.") else value for name, value in tensors.items()}
    )


def with_state(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, bytes]], None]:
    def apply(files: dict[str, bytes]) -> None:
        state = json.loads(files[ppo_text.STATE])
        change(state)
        files[ppo_text.STATE] = json.dumps(state).encode()

    return apply


LOST: dict[str, Callable[[dict[str, bytes]], Any]] = {
    "optimiser": without_moments,
    "values": without_values,
    "coefficient": with_state(lambda state: state.update(coefficient=0.1)),
    "iteration, so order and generators": with_state(lambda state: state.update(iteration=3)),
    "training RM's scale": with_state(lambda state: state["reference"].update(training={"mean": 0.0, "sd": 1.0})),
    "validation RM's scale": with_state(lambda state: state["reference"].update(validation={"mean": 0.0, "sd": 1.0})),
    "traces": with_state(lambda state: state["traces"].pop()),
    "best score": with_state(lambda state: state["best"].update(validation_score=-1e9)),
    "best adapter": lambda files: files.update({ppo_text.BEST + lm.ADAPTER: files["sft"]}),
    "policy": lambda files: files.update({lm.ADAPTER: files["sft"]}),
}


def test_a_checkpoint_holds_all_that_is_needed(
    inputs: dict[str, Path], tmp_path: Path, undisturbed: dict[str, bytes], halfway: Checkpoint
) -> None:
    assert run(tmp_path, inputs, Checkpoints(saved=halfway))[1] == undisturbed


@pytest.mark.parametrize("what", LOST)
def test_and_nothing_that_is_not(
    inputs: dict[str, Path], tmp_path: Path, undisturbed: dict[str, bytes], halfway: Checkpoint, what: str
) -> None:
    """Each item that is lost shows in the artifact, so the test above would not pass without it."""
    found = {**halfway.files, "sft": (inputs["sft"] / lm.ADAPTER).read_bytes()}
    LOST[what](found)
    assert run(tmp_path, inputs, Checkpoints(saved=Checkpoint(4, found)))[1] != undisturbed


def test_the_reference_is_sfts_after_a_resume(inputs: dict[str, Path], halfway: Checkpoint) -> None:
    found = ppo_text.Learner.start(config(), inputs, "cpu", 42)
    found.restore(halfway.files)
    assert lm.adapter_files(found.lm, found.lora, "reference") == files(inputs["sft"])
    assert lm.adapter_files(found.lm, found.lora, "policy")[lm.ADAPTER] == halfway.files[lm.ADAPTER]
    assert halfway.files[lm.ADAPTER] != files(inputs["sft"])[lm.ADAPTER]
