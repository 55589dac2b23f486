"""The earlier name of `wats.service.components`, for scripts that import it."""

import sys

from wats.service import components

sys.modules[__name__] = components
