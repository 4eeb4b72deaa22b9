"""What is rendered is handed to Compose and Swarm, so their client has to be there."""

from tests.support.engine import engine

__all__ = ["engine"]
