"""The command line: one command per verb. Heavy imports happen inside the verbs, so that --help is instant.

Exit codes: 0 done, 1 failed, 2 bad input, 75 ended in order and resumable, 130 interrupted with nothing to resume. Every
error is one line on standard error.
"""

import errno
import logging
import signal
import sys
from typing import NoReturn

import click

from ambient_sweep.cli import export, images, init, jobs, measuring, models, sweeps
from ambient_sweep.cli.group import commands
from ambient_sweep.errors import AmbientSweepError, Resumable, UserError
from ambient_sweep.object_store import with_urls
from ambient_sweep.storage import keep_private
from ambient_sweep.sweep.running.signals import AT_ONCE, WARNINGS

__all__ = ["commands", "export", "images", "init", "jobs", "main", "measuring", "models", "sweeps"]

LONGEST = 1200  # characters of an error


def main() -> None:
    keep_private()  # images, models and pictures of them
    for number in (*AT_ONCE, *WARNINGS):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)  # stops in order, as for Ctrl-C
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns of its own cache and fonts
    try:
        for word in sys.argv[1:]:
            if word.encode(errors="replace").decode() != word:
                raise UserError(f"{word!r} is not UTF-8; rename the file or folder")
        commands.main(standalone_mode=False)
    except AmbientSweepError as error:
        fail(str(error), error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(2)
    except click.UsageError as error:
        hint = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
        fail(error.format_message() + hint, 2)
    except click.ClickException as error:
        fail(error.format_message(), 2)
    except (click.Abort, KeyboardInterrupt):
        if sys.argv[1:2] in (["train"], ["resume"]):
            fail("interrupted; the same command goes on from what is saved", Resumable.exit_code)
        fail("interrupted", 130)
    except OSError as error:
        fail(f"{error.filename or 'a file'}: {error.strerror or error}", 2 if error.errno == errno.ENAMETOOLONG else 1)


def fail(message: str, code: int) -> NoReturn:
    """Ends with the message in one line, its middle left out where that would fill a screen."""
    for number in (*AT_ONCE, *WARNINGS):
        signal.signal(number, signal.SIG_IGN)  # `timeout` sends two
    line = " ".join(with_urls(message).split())
    line = line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"
    printable = (each if each.isprintable() else repr(each)[1:-1] for each in line)
    click.echo(f"error: {''.join(printable)}", err=True)
    sys.exit(code)
