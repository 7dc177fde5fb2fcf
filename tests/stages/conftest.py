import sys
from pathlib import Path

from small_trials import alone, place, prepared, root

__all__ = ["alone", "place", "prepared", "root"]

sys.path.insert(0, str(Path(__file__).parent.parent / "training"))  # what their tests share
