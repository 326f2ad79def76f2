"""Programs that tests of deploy/ want: skipped where one isn't installed, unless RETAIN_TEST_PROMETHEUS=required."""

from __future__ import annotations

import os
import shutil

import pytest


def program(*names: str) -> str:
    """The path of the first of these names that is installed."""
    found = next((path for path in map(shutil.which, names) if path), None)
    if found is None:
        missing = f"{names[0]} isn't installed (on Debian and Ubuntu: apt install prometheus prometheus-alertmanager)"
        if os.environ.get("RETAIN_TEST_PROMETHEUS") == "required":
            pytest.fail(missing)
        pytest.skip(missing)
    return found
