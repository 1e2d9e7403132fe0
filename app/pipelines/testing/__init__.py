"""Testing a pipeline: it runs in memory, step by step, under a clock that is moved by hand.

The rules are the service's own: a Simulation puts together the parts that a server is made of, with a database in
memory, a temporary folder for the tasks' files, and no HTTP. Nothing sleeps; only a stage's time limit is real time.
"""

from app.pipelines.testing.clock import HandClock
from app.pipelines.testing.simulation import NotEnded, Simulation
from app.pipelines.testing.standing import Standing, Step

__all__ = ["HandClock", "NotEnded", "Simulation", "Standing", "Step"]
