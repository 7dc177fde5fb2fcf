"""`python -m ambient_sweep`, and the command `ambient-sweep`."""

import signal


def main() -> None:
    """Runs the command line. A Ctrl-C while it is imported ends the process as the system does, without a traceback."""
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:  # not ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from ambient_sweep import cli

    cli.main()


if __name__ == "__main__":
    main()
