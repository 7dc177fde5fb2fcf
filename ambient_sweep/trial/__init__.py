"""One config from nothing to its evaluations, in a folder of its own, without Ray."""
