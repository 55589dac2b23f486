"""A fake Meta on this machine: Graph endpoints, signed webhooks, limits and faults.

It holds its state in memory, forgets it when it stops, and logs nothing.
"""

from wats.simulator.server import Simulator
from wats.simulator.settings import SimulatedNumber, SimulatorSettings

__all__ = ["SimulatedNumber", "Simulator", "SimulatorSettings"]
