"""How a command ends: every outcome as an exit code and, where something went wrong, one line on stderr."""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click

from madpipe.cli.printing import visible
from madpipe.errors import MadpipeError


def exit_code_of(run: Callable[[], Any]) -> int:
    """Call `run`, say on stderr what stopped it, and give the exit code (the table stands in `madpipe --help`).

    A stopped pipe (`madpipe tasks | head`) ends quietly. MADPIPE_TRACEBACK=1 shows the traceback of every error.
    """
    with _signals_noted() as received:
        code = _code_and_message(run)
    if received and code:
        code = 128 + received[0]
        _say(f"stopped by {signal.Signals(received[0]).name}.")
    return code


def _code_and_message(run: Callable[[], Any]) -> int:
    try:
        result = run()
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as failure:
        failure.show()
        return failure.exit_code
    except click.ClickException as failure:
        _say(_usage_line(failure))
        return 2
    except MadpipeError as failure:
        _say(str(failure))
        _show_traceback_if_wanted()
        return failure.exit_code
    except (KeyboardInterrupt, click.Abort):
        return 128 + signal.SIGINT
    except SystemExit as ending:  # not ours (click's is another): Lightning's on a signal, or a library that gives up
        if isinstance(ending.code, str):
            _say(ending.code)
        return ending.code if isinstance(ending.code, int) else 1
    except BrokenPipeError:
        _forget_stdout()
        return 1
    except MemoryError:
        _say("memory ran out; free some, or give smaller files or batches.")
        _show_traceback_if_wanted()
        return 1
    except OSError as failure:
        _say(f"{failure.strerror or failure}{f': {failure.filename}' if failure.filename else ''}.")
        _show_traceback_if_wanted()
        return 1
    except Exception as failure:
        _say(f"internal error: {type(failure).__name__}: {' '.join(str(failure).split())}")
        traceback.print_exc()
        return 1
    return result if isinstance(result, int) else 0


@contextmanager
def _signals_noted() -> Iterator[list[int]]:
    """SIGINT and SIGTERM unwind the stack, so that runs are closed and partial files removed; the list notes them.

    Lightning turns an interrupt into `exit(1)`: the note is what tells it from a failure. It also puts a handler of its
    own before ours, calls ours too, and leaves by itself when a training step has ended: then ours only notes.
    """
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if signal.getsignal(number) is stop:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    watched = [] if threading.current_thread() is not threading.main_thread() else [signal.SIGINT, signal.SIGTERM]
    # A shell starts background jobs with SIGINT ignored; that stays so.
    watched = [number for number in watched if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in watched}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _usage_line(failure: click.ClickException) -> str:
    message = " ".join(failure.format_message().split())
    message = message[:1].lower() + message[1:]
    context = getattr(failure, "ctx", None)
    return f"{message} Try '{context.command_path} --help'." if context else message


def _say(line: str) -> None:
    click.echo(f"madpipe: {visible(line)}", err=True)


def _show_traceback_if_wanted() -> None:
    if os.environ.get("MADPIPE_TRACEBACK", "0") not in ("", "0"):
        traceback.print_exc()


def _forget_stdout() -> None:
    """Point stdout at nothing: the interpreter flushes it once more at exit, and would complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
