"""Errors of the database. No I/O."""

from typing_extensions import override

from wats.errors.base import ConfigIssue, WatsError


class StoreError(WatsError):
    """The database could not execute an operation.

    `issue` is present if a database cannot be opened: the config key, the path as the operator
    wrote it, and the cause. It is part of the text for the terminal, and not of `message`.
    """

    code = "persistence_unavailable"
    status = 503
    text = "The store could not be reached."

    def __init__(self, message: str | None = None, *, issue: ConfigIssue | None = None) -> None:
        super().__init__(message)
        self.issue = issue

    @override
    def __str__(self) -> str:
        return self.message if self.issue is None else f"{self.message}\n  {self.issue}"

    @override
    def with_code(self) -> str:
        cause = "" if self.issue is None else f"\n  {self.issue}"
        return f"{self.message} ({self.code}){cause}"


class StoreUnavailable(StoreError):
    """The store cannot be reached, written or read now. The operation has no effect."""


class StoreOutcomeUnknown(StoreUnavailable):
    """The connection ended during the commit, so the operation may have been carried out."""


class DatabaseMoved(StoreUnavailable):
    """The files of an open database were moved, replaced, removed or overwritten."""

    text = "The files of the database were moved or replaced. Bring them back, or restart."


class StoreNotConfigured(StoreError):
    """The request needs a store and the service has none."""

    code = "persistence_not_configured"


class StoreClosed(StoreError):
    """The store was used before it was opened or after it was closed."""

    code = "store_closed"
    text = "The store is closed."


class StoreInUse(StoreError):
    """Another service that does not share the counters of this one uses the SQLite database."""

    code = "store_in_use"
    text = (
        "Another service uses this SQLite database. For several processes, use "
        "'wats serve --workers', or PostgreSQL."
    )


class MigrationFailed(StoreError):
    """A migration could not be applied; the database is as it was before it."""

    code = "migration_failed"
    text = "A database migration failed."


class SchemaMismatch(StoreError):
    """The database was migrated by other migrations: those of a newer wats, or edited files."""

    code = "migration_checksum_mismatch"
    text = "The schema version of the database does not match this version of wats."


class CopyRefused(StoreError):
    """A database cannot be copied; the target is as it was before."""

    code = "database_copy_refused"


class BackupRefused(StoreError):
    """A backup cannot be made or restored; the database is as it was before."""

    code = "database_backup_refused"
