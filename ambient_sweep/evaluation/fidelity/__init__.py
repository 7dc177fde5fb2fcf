"""How good samples are, from features: distances of distributions, and whether one set covers the other."""
