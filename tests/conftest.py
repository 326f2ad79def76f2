"""What tests of several packages share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from retain.dataset import DatasetSpec
from tests.datasets import described


@pytest.fixture(scope="session")
def spec() -> Callable[[str], DatasetSpec]:
    return described
