from small_trials import alone, prepared, root

__all__ = ["alone", "prepared", "root"]
