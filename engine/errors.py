"""Errors that are written for a person: what is wrong, where, what to do."""

from __future__ import annotations


class RetainError(Exception):
    """Ends a process with one line and `exit_code`, without a traceback."""

    exit_code = 2


class ConfigError(RetainError):
    """An experiment that can't be run as it is written."""


class DataError(RetainError):
    """A dataset that is missing or not what its description says."""


class ArtifactError(RetainError):
    """An artifact whose bytes are not those of its manifest."""


class StoreUnavailable(RetainError):
    """Something that can't be read or written now, though nothing is wrong with its content.

    A full disk, a lost mount, an I/O error: it may be over in a moment, or be none on another machine. EX_IOERR.
    """

    exit_code = 74


class NoBucket(StoreUnavailable):
    """The bucket can't be found, perhaps only for a while: what it holds doesn't count as gone."""


class BudgetExceeded(RetainError):
    """A reservation that would pass the cap of its ledger."""


class CriteriaMissed(RetainError):
    """A part that a release can't do without missed its exit criteria."""

    exit_code = 3
