"""`python -m ambient_sweep`."""

from ambient_sweep.cli import main

if __name__ == "__main__":
    main()
