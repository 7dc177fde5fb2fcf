"""The search: which configs are tried, by Optuna."""
