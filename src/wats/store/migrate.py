"""Migrations: numbered `.sql` files of this package, and the selection of missing ones.

Each file begins with `-- tolerates: N`: processes of schema version N and later keep running during
the migration and can be started afterwards. A rolling upgrade, or a rollback of the program, thus
needs no rollback of the database as long as migrations only add.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Literal, TypeAlias

from wats.errors import SchemaMismatch

Dialect: TypeAlias = Literal["sqlite", "postgres"]

_TOLERATES = "-- tolerates: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One step of the schema, made from a file such as `0001_initial.sql`.

    Attributes:
        id: The name of the file without its suffix.
        version: The number at the start of the name, which is the resulting schema version.
        sql: The statements.
        tolerates: The oldest schema version whose processes can use the database afterwards.
    """

    id: str
    version: int
    sql: str
    tolerates: int = 1

    @property
    def checksum(self) -> str:
        """The SHA-256 of the SQL, to detect files edited after their release."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedMigration:
    """The record of an applied migration in a database."""

    id: str
    version: int
    checksum: str
    tolerates: int = 1


def load_migrations(dialect: Dialect) -> tuple[Migration, ...]:
    """Read the migrations of *dialect* from the package, in order."""
    folder = resources.files("wats.store") / "migrations" / dialect
    migrations = [
        _migration(file.name.removesuffix(".sql"), file.read_text(encoding="utf-8"))
        for file in folder.iterdir()
        if file.name.endswith(".sql")
    ]
    return tuple(sorted(migrations, key=lambda migration: migration.version))


def _migration(name: str, sql: str) -> Migration:
    first_line = sql.partition("\n")[0]
    if not first_line.startswith(_TOLERATES):
        msg = f"Migration {name} does not begin with '{_TOLERATES}N'."
        raise ValueError(msg)
    return Migration(
        id=name,
        version=int(name.partition("_")[0]),
        sql=sql,
        tolerates=int(first_line.removeprefix(_TOLERATES)),
    )


def is_usable(schema_version: int, tolerated: int, needed: int) -> bool:
    """Return whether a process that needs schema version *needed* can use a database.

    Args:
        schema_version: The version of the last applied migration.
        tolerated: The highest `tolerates` of applied migrations after *needed*, or 0.
        needed: The version of the last migration of this process.
    """
    return schema_version >= needed >= tolerated


def missing_migrations(
    migrations: Sequence[Migration], applied: Iterable[AppliedMigration]
) -> Sequence[Migration]:
    """Return the *migrations* that are not *applied*, in order.

    Raises:
        SchemaMismatch: An applied migration differs from ours, or is newer and does not tolerate
            our schema version.
    """
    ours = {migration.id: migration for migration in migrations}
    needed = migrations[-1].version
    for theirs in applied:
        same = ours.pop(theirs.id, None)
        if same is None and (theirs.version <= needed or theirs.tolerates > needed):
            raise SchemaMismatch
        if same is not None and (same.version, same.checksum) != (theirs.version, theirs.checksum):
            raise SchemaMismatch
    return tuple(ours.values())
