"""The earlier name of `wats.process.server`, for scripts that import it."""

import sys

from wats.process import server

sys.modules[__name__] = server
