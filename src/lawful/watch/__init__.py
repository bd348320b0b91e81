"""Watching: a local page that follows runs while they train. It reads, and changes nothing."""

from .follow import Follower
from .server import Refusal, address, serve

__all__ = ["Follower", "Refusal", "address", "serve"]
