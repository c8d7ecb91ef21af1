"""How much is tried. Not in the package itself, which is imported before the profile is chosen."""

import os

import pytest
from hypothesis import HealthCheck, settings

SCALE = max(1, settings.default.max_examples // 100)
"""How many times as much as usual."""
PATIENCE = pytest.mark.timeout(120 * SCALE)
HOW = settings(deadline=None, suppress_health_check=list(HealthCheck))
FAST = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""A folder for many small files that need not last; None: the usual one."""
