"""Settings from the environment, for any program of the house: a table of them, each with how its text is checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from engine.errors import RetainError

MIN_SECRET = 16  # characters: nobody guesses as many by asking
MAX_SECRET = 256

Parser = Callable[[str, str], Any]  # (name of the setting, text) -> value; raises RetainError, which names the setting


@dataclass(frozen=True)
class Variable:
    """Of the environment. `default`: the text that counts where it is unset or empty, if any does."""

    name: str
    default: str | None
    parse: Parser

    def value(self, environment: Mapping[str, str]) -> Any:
        text = environment.get(self.name) or self.default
        return None if text is None else self.parse(self.name, text)


class Explained(Protocol):
    """A variable with what it means."""

    @property
    def name(self) -> str: ...
    @property
    def default(self) -> str | None: ...
    @property
    def meaning(self) -> str: ...


def described(settings: Sequence[Explained]) -> str:
    """A line for each setting: what it means, and what counts unless it is set."""
    width = max(len(setting.name) for setting in settings)
    return "\n".join(
        f"{setting.name:{width}}  {setting.meaning}" + (f" ({setting.default})" if setting.default else "")
        for setting in settings
    )


def any_text(name: str, text: str) -> str:
    return text


def whole(low: int, high: int, of: str = "", remark: str = "", unit: int = 1) -> Parser:
    """`of`: what is counted. `unit`: what the number is multiplied with."""

    def parse(name: str, text: str) -> int:
        if not re.fullmatch(rf"[0-9]{{1,{len(str(high))}}}", text) or not low <= int(text) <= high:
            raise RetainError(f"{name}={text}: wants a number{of} from {low} to {high}{remark}")
        return int(text) * unit

    return parse


PORT = whole(0, 65535, remark=" (0: any free port)")


def is_secret(text: str) -> bool:
    return MIN_SECRET <= len(text) <= MAX_SECRET and re.fullmatch(r"[!-~]+", text) is not None


def token(name: str, text: str) -> str:
    """A secret, which no message repeats."""
    if not is_secret(text):
        raise RetainError(f"{name}: wants {MIN_SECRET} to {MAX_SECRET} letters, digits and signs of ASCII, no space")
    return text
