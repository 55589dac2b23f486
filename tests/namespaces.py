"""Commands that run another command in namespaces of its own, where it may mount file systems.

Some kernels and most containers forbid them to some users.
"""

import os
import subprocess

import pytest

_AS_ROOT = [] if os.geteuid() == 0 else ["--map-root-user"]

MOUNTING = ["unshare", *_AS_ROOT, "--mount"]
CONTAINER = ["unshare", *_AS_ROOT, "--pid", "--fork", "--kill-child"]


def _is_forbidden(command: list[str]) -> bool:
    try:
        return subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode != 0
    except FileNotFoundError:
        return True


needs_mounting = pytest.mark.skipif(
    _is_forbidden([*MOUNTING, "mount", "-t", "tmpfs", "none", "/mnt"]),
    reason="this machine does not permit a mount namespace",
)
needs_container = pytest.mark.skipif(
    _is_forbidden([*CONTAINER, "true"]),
    reason="this machine does not permit a process namespace",
)
