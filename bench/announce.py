"""How a server process of the benchmark listens, and tells its parent where."""

import json
import os
import socket
import sys

BACKLOG = 2048


def listen() -> socket.socket:
    """Return a socket that listens on a free loopback port, once its URL was told on stdout."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    sys.stdout.write(json.dumps({"event": "bench.ready", "url": url, "pid": os.getpid()}) + "\n")
    sys.stdout.flush()
    return listener
