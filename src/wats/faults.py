"""The causes for which a file or a database cannot be used, as a closed list of words. No I/O."""

import errno
from enum import StrEnum
from typing import Final


class Fault(StrEnum):
    """A cause; `meaning` is its phrase for the operator."""

    meaning: str

    def __new__(cls, word: str, meaning: str) -> "Fault":
        """Make a member of its word, which is the value, and its meaning."""
        fault = str.__new__(cls, word)
        fault._value_ = word
        fault.meaning = meaning
        return fault

    NO_SUCH_FILE = "no_such_file", "no such file"
    NO_SUCH_DIRECTORY = "no_such_directory", "no such directory"
    NOT_A_DIRECTORY = "not_a_directory", "a part of the path is a file, not a directory"
    IS_A_DIRECTORY = "is_a_directory", "it is a directory, not a file"
    PERMISSION_DENIED = "permission_denied", "permission denied"
    READ_ONLY_FILE_SYSTEM = "read_only_file_system", "the file system is read-only"
    DISK_FULL = "disk_full", "no space left on the disk"
    FILE_EXISTS = "file_exists", "the file exists already"
    TOO_MANY_OPEN_FILES = "too_many_open_files", "too many open files"
    NOT_A_DATABASE = "not_a_database", "the file is not a SQLite database"
    DATABASE_DAMAGED = "database_damaged", "the database is damaged"
    DATABASE_LOCKED = "database_locked", "another process has locked the database"
    WRONG_SCHEMA = "wrong_schema", "the schema is not one that this version of wats can use"
    NO_LOCAL_LOCKS = (
        "no_local_locks",
        "the file system has no reliable locks; use a local disk, or PostgreSQL",
    )
    FILE_IS_A_MOUNT = (
        "file_is_a_mount",
        "the file is a mount point, so its -wal file is outside of the mount; mount its directory",
    )
    SEVERAL_NAMES = (
        "several_names",
        "the file has another name, a hard link, with a -wal file of its own; remove that name",
    )
    FOREIGN_LOG = (
        "foreign_log",
        "the write-ahead log next to the file belongs to another database; use 'wats database "
        "restore' to replace a database",
    )
    FILE_REPLACED = "file_replaced", "the file was replaced during the start"
    CONNECTION_REFUSED = "connection_refused", "no server accepts connections at the address"
    UNKNOWN_HOST = "unknown_host", "the name of the host cannot be resolved"
    UNREACHABLE = "unreachable", "the network has no route to the address"
    NO_RESPONSE = (
        "no_response",
        "no response in time; the address may be wrong, or a firewall may drop the packets",
    )
    CONNECTION_CLOSED = (
        "connection_closed",
        "the connection was closed; the program at the address may not be PostgreSQL",
    )
    TLS_FAILED = (
        "tls_failed",
        "TLS could not be established; check 'sslmode', the certificates, and whether the server "
        "offers TLS",
    )
    LOGIN_FAILED = "login_failed", "wrong user or password"
    LOGIN_REFUSED = (
        "login_refused",
        "the role does not exist or may not log in, or pg_hba.conf does not permit the connection",
    )
    NO_SUCH_DATABASE = "no_such_database", "the server has no such database"
    TOO_MANY_CONNECTIONS = (
        "too_many_connections",
        "the server, the database or the role has too many connections",
    )
    SERVER_NOT_READY = "server_not_ready", "the server is starting, recovering or stopping"
    READ_ONLY_SERVER = "read_only_server", "the server is read-only, such as a standby"
    WRONG_ENCODING = "wrong_encoding", "the encoding of the database is not UTF8"
    NO_SCHEMA = "no_schema", "the search path of the role has no schema"
    SERVER_ERROR = "server_error", "the server reported another error, which its log has"
    UNREADABLE = "unreadable", "the operating system reported an input or output error"


_BY_NUMBER: Final = {
    errno.ENOENT: Fault.NO_SUCH_FILE,
    errno.ENOTDIR: Fault.NOT_A_DIRECTORY,
    errno.EISDIR: Fault.IS_A_DIRECTORY,
    errno.EACCES: Fault.PERMISSION_DENIED,
    errno.EPERM: Fault.PERMISSION_DENIED,
    errno.EROFS: Fault.READ_ONLY_FILE_SYSTEM,
    errno.ENOSPC: Fault.DISK_FULL,
    errno.EDQUOT: Fault.DISK_FULL,
    errno.EEXIST: Fault.FILE_EXISTS,
    errno.EMFILE: Fault.TOO_MANY_OPEN_FILES,
    errno.ENFILE: Fault.TOO_MANY_OPEN_FILES,
    errno.ENOLCK: Fault.NO_LOCAL_LOCKS,
}


def fault_of(error: OSError | ValueError) -> Fault:
    """Return the cause of *error*, which a function of the operating system raised."""
    number = error.errno if isinstance(error, OSError) else None
    return _BY_NUMBER.get(number or 0, Fault.UNREADABLE)
