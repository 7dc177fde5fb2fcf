from small_trials import prepared

__all__ = ["prepared"]
