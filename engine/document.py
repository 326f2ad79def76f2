"""One object under one key of a store, replaced as a whole by compare-and-set.

Whoever changes it states how the new object follows from the one that is there, and is asked again if somebody else was
faster. So of two writers neither undoes what the other did. The object has a number that rises with each change
(engine/store.py says why).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

from engine.artifact import canonical
from engine.errors import RetainError
from engine.store import ABSENT, Conflict, Store

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Document(Generic[Model]):
    """An object of that model. Reading and changing raise RetainError where what is there is none, StoreUnavailable
    where the store doesn't answer."""

    store: Store
    key: str
    model: type[Model]

    def read(self) -> Model | None:
        """What is there, or None."""
        return self.look()[0]

    def look(self, before: tuple[Model | None, str] = (None, ABSENT)) -> tuple[Model | None, str]:
        """What is there, or None, and its version; what was seen `before` is not parsed again if it hasn't changed."""
        stored = self.store.read(self.key)
        if stored is None:
            return None, ABSENT
        return before if stored[1] == before[1] else (self._parsed(stored[0]), stored[1])

    def change(
        self, transition: Callable[[Model | None], Model], *, last_look: Callable[[], None] | None = None
    ) -> Model:
        """Replaces what is there by what the transition makes of it, and returns that. Nothing is written if it returns
        what it was given, or raises, or if `last_look` does, which is called right before it is there for others."""
        while True:
            before, version = self.look()
            after = transition(before)
            if after is before:
                return after
            try:
                content = canonical(after.model_dump(mode="json"))
                self.store.write(self.key, content, expect=version, last_look=last_look)
            except Conflict:
                continue
            return after

    def _parsed(self, content: bytes) -> Model:
        try:
            return self.model.model_validate_json(content)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            problem = f"{where}: {first['msg']}" if where else first["msg"]
            raise RetainError(
                f"{self.store.url}/{self.key}: is damaged ({problem}). Put back a sound copy; if there is none, move "
                "this one away and begin anew"
            ) from None
