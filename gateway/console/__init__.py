"""The console: pages on the admin port for people, and what they ask for under /api/.

It reads what the process counts anyway, and changes nothing itself: parked events and the journal have
APIs of their own.
"""

from gateway.console.events import Events
from gateway.console.exits import Exits, ReadExits
from gateway.console.overview import Overview
from gateway.console.pages import Pages

__all__ = ["Events", "Exits", "Overview", "Pages", "ReadExits"]
