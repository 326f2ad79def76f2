"""Google's notice that a spot machine is about to be taken away, 30 seconds before it stops.

The metadata server of a machine answers a question that waits for a change as soon as there is one, so nobody has to
ask again and again: https://cloud.google.com/compute/docs/instances/create-use-preemptible#detecting_if_an_instance_was_preempted.
GCE_METADATA_HOST, which Google's own libraries read as well, names that server. The work pools of spot machines set it;
where it isn't set, there is no such notice.
"""

from __future__ import annotations

import os
import time
import urllib.request
from collections.abc import Callable, Mapping

HOST = "GCE_METADATA_HOST"
PATH = "/computeMetadata/v1/instance/preempted"
TAKEN_AWAY = "the machine is being taken away"
WAIT_S = 60  # for a change, in one question
AGAIN_S = 2.0  # after a question that failed: 30 seconds have to be enough


def server(environment: Mapping[str, str] = os.environ) -> str | None:
    return environment.get(HOST) or None


def await_notice(host: str, pause: Callable[[float], None] = time.sleep) -> None:
    """Returns once the machine is to be taken away. A server that doesn't answer is asked again, for ever."""
    asked = f"http://{host}{PATH}"  # without waiting at first: the notice may have come before we did
    while True:
        request = urllib.request.Request(asked, headers={"Metadata-Flavor": "Google"})
        try:
            with _direct.open(request, timeout=WAIT_S + 10) as answer:
                if answer.read().strip() == b"TRUE":
                    return
            asked = f"http://{host}{PATH}?wait_for_change=true&timeout_sec={WAIT_S}"
        except (OSError, ValueError):  # a broken answer is a ValueError
            pause(AGAIN_S)


_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the server is this machine's own
