"""Made-up dialogues and preferences, for a machine without data and network: seeded, simple, and said to be so.

Short exchanges of a customer service, put together from phrases. In a preference the chosen reply helps; the rejected
one is curt, off the topic or rude. Nothing measured on them says anything about what people write or prefer.
"""

from __future__ import annotations

import numpy as np

# Part of a synthetic source's identity: raise it with every change of what is generated.
GENERATOR_VERSION = 1

DIALOGUES, PREFERENCES = 2_000, 2_000
DIALOGUES_STREAM, PREFERENCES_STREAM = 0, 1  # of random draws

# What a customer asks, and what answers it: {x} is the same thing in both.
_TOPICS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "bill": (
        ("my bill", "the last invoice", "the charge of {month}", "my monthly payment"),
        ("Why is {x} higher than before?", "I do not understand {x}.", "Can you explain {x} to me?"),
        (
            "I have looked at {x}: a service was added in {month}, and it is listed on the second page.",
            "A part of {x} is for {month}, so it looks higher than it will be from now on.",
            "{x} holds one fee that is charged once. From next month it is back to normal.",
        ),
    ),
    "line": (
        ("my internet connection", "the phone line", "the router", "the television box"),
        ("{x} stops working every evening.", "I have a problem with {x}.", "What can I do when {x} is slow?"),
        (
            "Please switch {x} off for a minute and on again. If it still fails, we send somebody on {day}.",
            "I have tested {x} from here and found a fault. It will be mended by {day}.",
            "I am sorry about {x}. A technician can come on {day}; does that suit you?",
        ),
    ),
    "plan": (
        ("a smaller plan", "a plan with more data", "a contract of one year", "the family plan"),
        ("Can I change to {x}?", "How much would {x} cost me?", "I would like to have {x}."),
        (
            "Yes, you can change to {x} from the first of {month}. There is no fee for it.",
            "I can prepare {x} for you today. It starts in {month}.",
            "With your account, {x} is possible. Shall I send you the details before {day}?",
        ),
    ),
    "visit": (
        ("the appointment on {day}", "the visit of the technician", "the delivery", "my booking for {day}"),
        ("Can we move {x}?", "At what time is {x}?", "I have to cancel {x}."),
        (
            "I have moved {x} to the next free day. You get a message the evening before.",
            "For {x} we have noted ten in the morning. Is that still fine?",
            "That is no problem: {x} is changed, and nothing is charged.",
        ),
    ),
    "account": (
        ("my password", "my address", "my e-mail address", "the name on the account"),
        ("How can I change {x}?", "You have an old entry for {x}.", "Please help me with {x}."),
        (
            "You can change {x} on the page of your account, under settings.",
            "I can do that for you. Please tell me what {x} should be.",
            "I have sent you a form for {x}. It is done as soon as you have confirmed it.",
        ),
    ),
}
_MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October")
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
_BEFORE = ("", "Hello. ", "Hi, ", "Good morning. ", "Good evening. ", "Excuse me, ")
_AFTER = ("", " Thank you.", " It is the second time.", " I am a customer since {month}.", " Please answer by {day}.")
_OPENINGS = ("", "Thank you for writing. ", "I am glad to help. ", "Of course. ", "Thank you for your patience. ")
_CLOSINGS = ("", " Is there anything else?", " Have a good day.", " Please write again if it does not help.")
_CURT = ("No.", "Read the terms.", "That is not possible.", "Ask somebody else.", "Look at the page.", "Maybe.")
_OFF_TOPIC = (
    "The weather will be nice on {day}.",
    "Our office was opened in {month}, and it has a garden.",
    "There is a concert in the park on {day}.",
    "I like to cook soup in {month}.",
)
_RUDE = (
    "That is your own fault, and I have no time for it.",
    "Anybody but you would have understood this.",
    "Stop asking such silly questions.",
    "You should have thought of that in {month}. Do not bother me.",
)


def dialogues(seed: int) -> list[tuple[str, str]]:
    """(prompt, reply), each pair once."""
    rng = np.random.default_rng([seed, GENERATOR_VERSION, DIALOGUES_STREAM])
    return list(dict.fromkeys(_exchange(rng) for _ in range(DIALOGUES)))


def preferences(seed: int) -> list[tuple[str, str, str]]:
    """(prompt, chosen, rejected)."""
    rng = np.random.default_rng([seed, GENERATOR_VERSION, PREFERENCES_STREAM])
    rows = []
    for _ in range(PREFERENCES):
        prompt, chosen = _exchange(rng)
        kinds = (_CURT, _OFF_TOPIC, _RUDE)
        rows.append((prompt, chosen, _filled(rng, _pick(rng, kinds[rng.integers(len(kinds))]))))
    return list(dict.fromkeys(rows))


def _exchange(rng: np.random.Generator) -> tuple[str, str]:
    things, questions, answers = _TOPICS[_pick(rng, tuple(_TOPICS))]
    thing = _filled(rng, _pick(rng, things))
    question = _capital(_pick(rng, questions).replace("{x}", thing))
    answer = _capital(_pick(rng, answers).replace("{x}", thing.replace("my ", "your ")))
    prompt = _pick(rng, _BEFORE) + question + _pick(rng, _AFTER)
    return _filled(rng, prompt), _filled(rng, _pick(rng, _OPENINGS) + answer + _pick(rng, _CLOSINGS))


def _filled(rng: np.random.Generator, text: str) -> str:
    return text.replace("{month}", _pick(rng, _MONTHS)).replace("{day}", _pick(rng, _DAYS))


def _pick(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[rng.integers(len(choices))]


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
