from small_trials import alone, place, prepared, root

__all__ = ["alone", "place", "prepared", "root"]
