"""How a server process of the benchmark listens, and reports its address to its parent."""

import json
import os
import socket
import sys

BACKLOG = 2048


def listen() -> socket.socket:
    """Print the URL of a free loopback port on stdout, and return its listening socket."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    sys.stdout.write(json.dumps({"event": "bench.ready", "url": url, "pid": os.getpid()}) + "\n")
    sys.stdout.flush()
    return listener
