"""An answer that is on record as a caller is given it, the first time and again.

What is on record has no name in it: a message is greeted when it is given. Whoever is given an answer again gets the
same decision, offer and message, with what may be said and sent now.
"""

from __future__ import annotations

from typing import Any

import orjson

from retain.decision import NO_CONTACT
from retain.release import TEMPLATES
from serve.deciding import Deciding
from serve.operations import Answered

# Of an answer that is given again to somebody who has opted out since.
NO_MORE = {
    "action": NO_CONTACT, "offer": None, "why": "do_not_contact", "message": None, "send_after": None,
}  # fmt: skip


def first(answered: Answered, deciding: Deciding) -> bytes:
    """The answer to the request that the decision was made for."""
    if answered.wording is None or "name" not in deciding.bound.release.spec.roles:
        return answered.answer
    return _greeted(orjson.loads(answered.answer), deciding)


def again(answered: Answered, deciding: Deciding) -> bytes:
    """The answer to a request that is repeated or asked again: without its contact if the customer has opted out since,
    with another message in the place of one that nobody approves any more, and to be sent from now on."""
    if answered.wording is None and not (answered.suppressed or answered.repeated):
        return answered.answer
    content = orjson.loads(answered.answer) | {"repeated": answered.repeated}
    if answered.suppressed:
        return orjson.dumps(content | NO_MORE)
    if answered.wording is None:
        return orjson.dumps(content)
    release, message = deciding.bound.release, content["message"]
    if message["source"] != TEMPLATES and release.verdicts.get(answered.wording) != "approved":
        entry = release.entry(content["mode"], message["situation"], content["offer"])
        content["message"] = None if entry is None else release.said(entry).answer()
    content["send_after"] = None if content["message"] is None else deciding.send_after(answered.at)
    return _greeted(content, deciding)


def _greeted(content: dict[str, Any], deciding: Deciding) -> bytes:
    """The JSON of an answer."""
    if message := content["message"]:
        release, values = deciding.bound.release, deciding.asked.values
        message["text"] = release.greeted(message["text"], content["offer"], values)
    return orjson.dumps(content)
