"""Has the kernel kill a worker that starts a child; the supervisor has to start its workers.

Python imports it at its start, since the folder is on its path.
"""

import os
from functools import partial

from tests.privacy.no_network import forbid, no_children

os.register_at_fork(after_in_child=partial(forbid, no_children))
