"""uvicorn for the rivals, with every setting of `wats serve` that makes it faster."""

import gc
from typing import Any

import uvicorn
import uvloop

from bench.announce import listen


def serve(app: Any) -> None:
    """Serve *app* until SIGINT or SIGTERM."""
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
    )
    gc.collect()
    gc.freeze()
    uvloop.run(uvicorn.Server(config).serve(sockets=[listen()]))
