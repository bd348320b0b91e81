"""Models shared by tests are imported by name."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(HERE.parent / "symmetry"), str(ROOT / "benchmarks")]
