"""What runs again when words change, as `make why` says it, once every stage has made what it makes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.artifact import canonical
from engine.fingerprint import code_digests
from engine.stage import IDENTITY
from engine.store import FolderStore
from flows.plan import Plan, make_plan, stage_config, why
from tasks.config import WordsConfig
from tasks.stages import STAGES

Words = dict[str, Any]


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """experiment_local, of which every stage has an artifact."""
    folder = tmp_path_factory.mktemp("words")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETAIN_STORE", str(folder / "store"))
        patch.delenv("RETAIN_DATA_DIR", raising=False)
        plan = make_plan("local")
    run_all(plan, folder)
    assert not any(why(plan).values())
    return plan


def run_all(plan: Plan, folder: Path, *, other_bytes: bool = False) -> set[str]:
    """Carries out what `why` names; the stages that had to run. Each makes the bytes that it always makes, or
    `other_bytes` for each fingerprint."""
    ran = set()
    while due := [name for name, causes in why(plan).items() if causes and not causes[0].startswith("waits")]:
        for name in due:
            identity = plan.standing()[name]
            assert identity is not None
            made = folder / name
            made.mkdir(exist_ok=True)
            number = int(identity.fingerprint[:8], 16) if other_bytes else 0
            (made / "metrics.json").write_bytes(canonical({"number": {"value": float(number)}}))
            prefix = plan.artifacts.prefix(name, identity.fingerprint)
            plan.store.write(f"{prefix}/{IDENTITY}", canonical(identity.model_dump(mode="json")))
            plan.artifacts.publish(name, identity.fingerprint, made)
            plan.artifacts.set_current(name, identity.fingerprint)
        ran |= set(due)
    return ran


def with_words(plan: Plan, edit: Callable[[Words], None]) -> Plan:
    words = plan.experiment.words.model_dump(mode="json")
    edit(words)
    experiment = plan.experiment.model_copy(update={"words": WordsConfig.model_validate_json(canonical(words))})
    return replace(plan, experiment=experiment, configs={name: stage_config(experiment, name) for name in STAGES})


def a_template(words: Words) -> None:
    words["templates"]["price"]["offer"] += " Thank you."


def a_word_of_the_guard(words: Words) -> None:
    words["guard"]["words"] = {"promise": ["our new network"]}


def a_name(words: Words) -> None:
    words["guard"]["names"]["no_names"] += " wombat"


def a_harmless_phrase_of_the_guard(words: Words) -> None:
    words["guard"]["harmless"].append("you never walk alone")


def a_sentence_of_the_guard(words: Words) -> None:
    words["guard"]["sentences"]["promise"] = "promises a gift"


def a_word_of_the_rules(words: Words) -> None:
    words["rules"]["words"]["promise"].append("our new network")


def a_harmless_phrase_of_the_rules(words: Words) -> None:
    words["rules"]["harmless"].pop()


def a_phrase(words: Words) -> None:
    words["phrases"]["greetings"].append("Good morning.")


def an_english_word(words: Words) -> None:
    words["english"]["words"] += " gigabit"


def a_cue(words: Words) -> None:
    topics = words["cues"]["topics"]
    topics[min(topics)] = topics[max(topics)]


REWARD = {"prompts", "ppo_text", "text_eval", "messages", "release"}

# What is edited; which stages have other identities then, and run again even if all that they read stays the same; and
# which run again if those make other bytes.
RUNS_AGAIN: Mapping[Callable[[Words], None], tuple[set[str], set[str]]] = {
    a_template: ({"release"}, {"release"}),
    a_word_of_the_guard: ({"release"}, {"release"}),
    a_name: ({"release"}, {"release"}),
    a_harmless_phrase_of_the_guard: ({"release"}, {"release"}),
    a_sentence_of_the_guard: ({"release"}, {"release"}),
    a_word_of_the_rules: (REWARD, {*REWARD, "base", "sft", "rm", "judge"}),
    a_harmless_phrase_of_the_rules: (REWARD, {*REWARD, "base", "sft", "rm", "judge"}),
    a_phrase: ({"prompts"}, {*REWARD, "base", "sft", "rm", "judge"}),
    a_cue: ({"judge"}, {"judge", "text_eval", "release"}),
    an_english_word: ({"messages"}, {"messages", "release"}),
}


@pytest.mark.parametrize(
    ("edit", "stages", "all_after"),
    [(edit, *stages) for edit, stages in RUNS_AGAIN.items()],
    ids=[edit.__name__ for edit in RUNS_AGAIN],
)
def test_what_runs_again_when_words_change(
    complete: Plan,
    tmp_path: Path,
    edit: Callable[[Words], None],
    stages: set[str],
    all_after: set[str],
) -> None:
    plan = with_words(complete, edit)
    other = replace(plan, store=FolderStore(tmp_path / "other"))
    shutil.copytree(plan.store.url, other.store.url)
    causes = why(plan)
    first = next(name for name in STAGES if name in stages)
    assert causes[first][0].startswith("config: ")
    # What reads from it waits, and so does what reads from that; if it comes out with equal bytes, those are reused.
    assert {name for name, lines in causes.items() if lines} == followers(first) == all_after
    assert all(lines[0].startswith("waits for ") for name, lines in causes.items() if lines and name != first)
    assert run_all(plan, tmp_path) == stages
    assert run_all(other, tmp_path, other_bytes=True) == all_after


def followers(stage: str) -> set[str]:
    """The stage, and all that read from it or from such a one."""
    found = {stage}
    for name, row in STAGES.items():
        if found & set(row.inputs):
            found.add(name)
    return found


def test_every_word_of_the_experiment_is_given_to_a_stage(complete: Plan) -> None:
    given = {field for config in complete.configs.values() for field in config if field in WordsConfig.model_fields}
    assert given == set(WordsConfig.model_fields)


@pytest.mark.parametrize("stage", ["prompts", "ppo_text", "text_eval", "messages"])
def test_a_stage_that_judges_by_the_rules_alone_holds_no_code_of_the_guard(stage: str) -> None:
    files = code_digests(STAGES[stage].entry)
    assert "retain/rules.py" in files
    assert not {"retain/guard.py", "retain/names.py"} & set(files)
