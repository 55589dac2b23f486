"""The earlier name of `wats.service.upkeep`, for scripts that import it."""

import sys

from wats.service import upkeep

sys.modules[__name__] = upkeep
