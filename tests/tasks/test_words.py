"""What doesn't fit in ops/messages/{phrases,cues,english}.yaml is refused, and the message names the key."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from engine.config import experiment_path, load, validate
from engine.errors import ConfigError
from tasks.config import Experiment
from tasks.rlhf.judging.rule_judge.cues import HarmCues, compile_cues
from tasks.rlhf.retention import domain
from tasks.words import INVITED_FLAWS, PHRASED_FLAWS
from tests.words import CUES, WORDS

RESOLVED = load(experiment_path("exp_001_mvp"))


def refused(path: str, value: Any) -> str:
    """What is said of the experiment with another value at words.<path>; of None, without that key."""
    data = copy.deepcopy(RESOLVED.data)
    node = data["words"]
    *above, last = path.split("/")
    for key in above:
        node = node[key]
    if value is None:
        del node[last]
    else:
        node[last] = value
    with pytest.raises(ConfigError) as caught:
        validate(type(RESOLVED)(**{**vars(RESOLVED), "data": data}), Experiment)
    return str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("phrases/openings/price", None, "key 'words.phrases.openings' is .*: the situation 'price' is missing"),
        ("phrases/details/weather", ["Rain."], "'words.phrases.details' .*'weather' is no situation; known are price,"),
        ("phrases/greetings", [], "key 'words.phrases.greetings' is"),
        ("phrases/greetings", ["Hi.", " "], "key 'words.phrases.greetings.1' is ' ': is an empty phrase"),
        ("phrases/ears", ["We listen."], "key 'words.phrases.ears' is unknown here"),
        ("phrases/leads", None, "key 'words.phrases.leads' is missing"),
        ("phrases/leads", ["For {offer}, "], r"'words.phrases.leads.0' .*the slot \{offer\}; filled here are none"),
        ("phrases/offers", ["{offer} off."], r"'words.phrases.offers.0' .*names \{months\} 0 times, not once"),
        ("phrases/offers", ["{offer} or {offer} for {months}."], r"names \{offer\} 2 times, not once"),
        ("phrases/offers", ["{offer} off for {month}."], r"slot \{month\}; filled here are \{offer\} and \{months\}"),
        ("phrases/offers", ["{offer} off for {months}}."], r"holds the slot \}; filled here"),
        ("phrases/endings/turned/no_offer", None, "key 'words.phrases.endings.turned.no_offer' is missing"),
        ("phrases/flaws/sentences/link", None, "'words.phrases.flaws.sentences' .*the kind of flaw 'link' is missing"),
        ("phrases/flaws/clauses/spam", [" x"], "'words.phrases.flaws.clauses' .*'spam' is no kind of flaw; known"),
        ("phrases/flaws/clauses/link", [" {link}"], r"'words.phrases.flaws.clauses.link.0' .*slot \{link\}; filled"),
        ("phrases/flaws/durations", ["a year"], "key 'words.phrases.flaws.durations' is"),
        ("phrases/invitations/probes/insult", None, "the kind of flaw to ask for 'insult' is missing"),
        ("phrases/invitations/training", {}, "'words.phrases.invitations.training' .*names no kind of flaw"),
        ("phrases/invitations/training/spam", ["Spam."], "'spam' is no kind of flaw to ask for"),
        ("cues/harm/risk", None, "key 'words.cues.harm.risk' is missing"),
        ("cues/harm/threats", {}, "key 'words.cues.harm.threats' is unknown here"),
        ("cues/harm/insult/cues", {}, "key 'words.cues.harm.insult.cues' is"),
        ("cues/harm/insult/cues/2", "fool", "'words.cues.harm.insult.cues' .*the weight '2' is no number above 0"),
        ("cues/harm/insult/cues/0.0", "fool", "the weight '0.0' is no number above 0"),
        ("cues/harm/insult/cues/1.0", "Fool", "'Fool' is no cue: lower-case words"),
        ("cues/harm/insult/cues/1.0", "fool,, oaf", "'' is no cue"),
        ("cues/harm/insult/cues/1.0", "hate", "the cue 'hate' stands there twice"),
        ("cues/harm/risk/pairs", [{"first": "a", "second": "b", "within": 0, "weight": 0.5}], "pairs.0.within' is 0"),
        ("cues/topics/price", None, "'words.cues.topics' .*the situation 'price' is missing"),
        ("cues/sets/small", "a, an", "key 'words.cues.sets.small' is 'a, an'"),
        ("english/modals", None, "key 'words.english.modals' is missing"),
        ("english/modals", "can, will", "key 'words.english.modals' is 'can, will'"),
        ("english/verbs", "go", "key 'words.english.verbs' is unknown here"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_its_key(path: str, value: Any, complaint: str) -> None:
    message = refused(path, value)
    assert re.search(complaint, message), message
    assert str(Path("ops/messages")) in message or str(RESOLVED.path) in message


def test_the_kinds_of_flaws_are_those_that_are_made() -> None:
    assert set(INVITED_FLAWS) <= set(domain.FLAWS)
    assert set(PHRASED_FLAWS) == set(WORDS.phrases.flaws.sentences) == set(WORDS.phrases.flaws.clauses)
    assert domain.invited(WORDS.phrases.invitations.probes) == list(INVITED_FLAWS)


def test_every_list_of_cues_is_compiled_whole() -> None:
    compiled = compile_cues(CUES)
    assert set(compiled.harm) == set(CUES["harm"])
    for kind, harm in compiled.harm.items():
        assert isinstance(harm, HarmCues)
        listed = [cue.strip() for line in CUES["harm"][kind]["cues"].values() for cue in line.split(",")]
        assert sorted(harm.cues) == sorted(listed)
        assert len(harm.pairs) == len(CUES["harm"][kind]["pairs"])
    assert list(compiled.topics) == ["price", "support", "contract", "payment", "new", "default"]
    assert compiled.sets.negation >= {"no", "not", "never"}
