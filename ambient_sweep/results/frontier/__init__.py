"""The frontier over a sweep's evaluations: candidates, recipes, how certain it is, and rules that pick from it."""
