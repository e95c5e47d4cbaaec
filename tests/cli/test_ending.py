"""Exit codes and streams, of functions in this process and of real processes with signals and pipes."""

import os
import signal
import subprocess
import sys
import time

import click
import pytest

from madpipe import errors
from madpipe.cli.ending import exit_code_of


def raising(failure: BaseException):
    def run():
        raise failure

    return run


ERRORS = [error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, Exception)]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_every_user_error_is_one_line_on_stderr_and_its_own_exit_code(capsys, error):
    assert exit_code_of(raising(error("what was asked. What to do."))) == error.exit_code
    assert capsys.readouterr() == ("", "madpipe: what was asked. What to do.\n")


def test_a_traceback_of_a_user_error_is_shown_on_demand(capsys, monkeypatch):
    monkeypatch.setenv("MADPIPE_TRACEBACK", "1")
    exit_code_of(raising(errors.ShapeError("no")))
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_an_unexpected_error_is_called_internal_and_shows_its_traceback(capsys):
    assert exit_code_of(raising(KeyError("x"))) == 1
    said = capsys.readouterr().err
    assert said.startswith("madpipe: internal error: KeyError: 'x'\nTraceback (most recent call last)")


def test_a_refusal_by_the_system_is_one_line_with_the_file(capsys):
    assert exit_code_of(raising(PermissionError(13, "Permission denied", "/x"))) == 1
    assert capsys.readouterr().err == "madpipe: Permission denied: /x.\n"


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        (click.UsageError("no"), 2),
        (click.BadParameter("no"), 2),
        (click.FileError("x"), 2),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
        (SystemExit(143), 143),
        (SystemExit(0), 0),
        (SystemExit("gave up"), 1),
        (SystemExit(), 1),
    ],
    ids=repr,
)
def test_every_other_ending_has_its_exit_code(ending, code):
    assert exit_code_of(raising(ending)) == code


@pytest.mark.parametrize(("result", "code"), [(None, 0), (3, 3), ("text", 0)])
def test_a_command_that_returns_ends_with_its_number_or_with_0(result, code):
    assert exit_code_of(lambda: result) == code


def test_signal_handlers_are_put_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    exit_code_of(lambda: None)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.fixture
def interruptible():
    """A process started in the background may have SIGINT ignored, and Python then installs no handler."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_that_a_library_turns_into_exit_1_still_ends_with_130(capsys):
    def run():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            sys.exit(1)

    assert exit_code_of(run) == 130
    assert capsys.readouterr().err == "madpipe: stopped by SIGINT.\n"


def test_where_another_handler_stands_in_front_a_signal_is_only_noted():
    class LeavesLater(SystemExit):
        pass

    def run():
        ours = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, lambda *given: ours(*given))
        os.kill(os.getpid(), signal.SIGTERM)
        finished.append("the step")
        raise LeavesLater

    finished = []
    assert exit_code_of(run) == 143
    assert finished == ["the step"]


def test_a_signal_that_came_too_late_to_stop_anything_changes_nothing():
    def run():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except SystemExit:
            pass

    assert exit_code_of(run) == 0


# Real processes

SLOW_COMMAND = """
import signal, sys, time, types
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a process started in the background
module = types.ModuleType("madpipe.workflows.tasks")
def list_tasks():
    try:
        print("begun", flush=True)
        time.sleep(60)
    finally:
        print("closed", file=sys.stderr, flush=True)
module.list_tasks = list_tasks
sys.modules[module.__name__] = module
from madpipe.cli.main import main
main(["tasks", "list"])
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_unwinds_the_process_and_gives_its_exit_code(number, code):
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_COMMAND], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "begun\n"
    process.send_signal(number)
    _, said = process.communicate(timeout=20)
    assert process.returncode == code
    assert said.split("\n") == [
        "closed",
        *([""] if number == signal.SIGINT else []),
        f"madpipe: stopped by {number.name}.",
        "",
    ]


@pytest.mark.parametrize("line_count", [1, 10_000], ids=["at the end", "in the middle"])
def test_a_closed_pipe_ends_quietly(line_count):
    program = SLOW_COMMAND.replace('print("begun", flush=True)', f"return [('name', 'line')] * {line_count}")
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run([sys.executable, "-c", program], stdout=write_end, stderr=subprocess.PIPE, text=True)
    os.close(write_end)
    assert done.returncode == 1
    assert done.stderr == "closed\n"


def test_the_module_and_the_command_are_the_same():
    done = subprocess.run([sys.executable, "-m", "madpipe", "fitt"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("madpipe: no command named 'fitt'. Did you mean 'fit'?")
