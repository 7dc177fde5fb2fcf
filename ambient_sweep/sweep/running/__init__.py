"""A sweep on Ray: session, trials, workers, and the driver around them."""
