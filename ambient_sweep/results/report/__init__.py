"""A sweep's report for people: the frontier as a picture, and one HTML page."""
