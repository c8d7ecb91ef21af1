"""The stage that works on parked events: look, replay, purge; the commands and the admin API share it.

It holds the dead queue of one sink while it works, and knows no concrete broker.
"""

from gateway.dead.choice import Choice
from gateway.dead.mending import indented, mended
from gateway.dead.showing import exported, fields, whole
from gateway.dead.work import Counts, Work

__all__ = ["Choice", "Counts", "Work", "exported", "fields", "indented", "mended", "whole"]
