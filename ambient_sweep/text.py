"""Numbers, endpoints and commands in the words of messages."""

import shlex


def counted(count: int, noun: str) -> str:
    """`1 trial`, `2 trials`, `1,200 trials`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """`40 seconds`, `12 minutes`, `7.5 hours`, `1,200 hours`: about so long."""
    if seconds < 60:
        return counted(max(1, round(seconds)), "second")
    if seconds < 3600:
        return counted(round(seconds / 60), "minute")
    return f"{seconds / 3600:.1f} hours" if seconds < 36_000 else f"{seconds / 3600:,.0f} hours"


def sampled(endpoint: str) -> str:
    """How samples of an endpoint were made: `sampled to zero`, `sampled to observed`, `sampled in one step`."""
    return "sampled in one step" if endpoint == "distilled" else f"sampled to {endpoint}"


def command(*words: object) -> str:
    """A command of this package as a shell takes it, words quoted where they must be."""
    return shlex.join(["ambient-sweep", *map(str, words)])
