"""A stage whose libraries take longer to import than anybody waits."""

from __future__ import annotations

import time

from tests.engine.toy_stages import walk

__all__ = ["walk"]

time.sleep(120)
