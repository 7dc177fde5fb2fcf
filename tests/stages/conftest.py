import sys
from pathlib import Path

from small_trials import alone, prepared, root

__all__ = ["alone", "prepared", "root"]

sys.path.insert(0, str(Path(__file__).parent.parent / "training"))  # what their tests share
