"""Challenges: open directions as benchmarks, each with a protocol, a score and a theory to beat.

challenges()                 all of them by name
run(challenge, entries)      the baseline and others' theories, scored
Challenge, Case, Entry       to state one, or to enter one (entry points `lawful.challenges`)
"""

from .board import challenge, challenges
from .challenge import Case, Challenge, Entry, Result, entries, run

__all__ = ["Case", "Challenge", "Entry", "Result", "challenge", "challenges", "entries", "run"]
