"""Multi-objective successive halving: which trials go on."""
