"""What `validate` and `doctor` examine before a sweep starts."""
