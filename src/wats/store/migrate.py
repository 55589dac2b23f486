"""Migrations: numbered `.sql` files of this package, and which of them a database still needs."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Literal, TypeAlias

from wats.errors import SchemaMismatch

Dialect: TypeAlias = Literal["sqlite"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One step of the schema, made from a file such as `0001_initial.sql`.

    Attributes:
        id: The name of the file without its ending.
        version: The number at its beginning; the schema version once it is applied.
        sql: What to run.
    """

    id: str
    version: int
    sql: str

    @property
    def checksum(self) -> str:
        """The SHA-256 of the SQL, so that a file that was edited later is noticed."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedMigration:
    """What a database says about a migration that it has."""

    id: str
    version: int
    checksum: str


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
    return Migration(id=name, version=int(name.partition("_")[0]), sql=sql)


def missing_migrations(
    migrations: Sequence[Migration], applied: Iterable[AppliedMigration]
) -> Sequence[Migration]:
    """Return those of *migrations* that are not *applied*, in order.

    Raises:
        SchemaMismatch: An applied one is not among *migrations*, or is not the same.
    """
    ours = {
        AppliedMigration(id=m.id, version=m.version, checksum=m.checksum): m for m in migrations
    }
    for theirs in applied:
        if ours.pop(theirs, None) is None:
            raise SchemaMismatch
    return tuple(ours.values())
