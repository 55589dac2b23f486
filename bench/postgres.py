"""A PostgreSQL server for a contestant: `python -m bench.postgres FOLDER`, until SIGTERM."""

import json
import os
import signal
import sys
from pathlib import Path

from tests.store.postgres.server import Server

SETTINGS = """
max_connections = 50
listen_addresses = ''
"""
"""Everything else has the defaults of PostgreSQL: every commit is on the disk."""


def main() -> None:
    server = Server(SETTINGS, data=Path(sys.argv[1]))
    try:
        server.start()
        ready = {"event": "bench.ready", "url": server.url("postgres"), "pid": os.getpid()}
        print(json.dumps(ready), flush=True)
        signal.sigwait({signal.SIGTERM, signal.SIGINT})
    finally:
        server.remove()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main()
