"""The `aapo` command, run: the one place that turns errors into messages.

Exit codes: 0 done; 2 the input is wrong; 1 it failed while running, or was interrupted.
"""

import logging
import os
import select
import socket
import sys
import traceback
import warnings
from urllib.parse import urlsplit

import typer

from aapo import stopping, watching
from aapo.cli import building, judging, using  # noqa: F401  they declare their subcommands, in the order of --help
from aapo.cli.declaring import app
from aapo.errors import AapoError, InputError
from aapo.messages import visible
from aapo.processes import end_with_parent
from aapo.ranks import finish

# Commands that may look for models and data on the Hub.
REACHING = ("train", "cluster", "eval", "bank", "base", "compare", "chat", "doctor", "publish")


def main() -> None:
    """Run the command line and exit."""
    stopping.listen()
    end_with_parent()
    watching.want_watch()
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    if not debug:
        _quiet()
    code = run(arguments, debug=debug)
    stopping.leave()
    if code == 0:  # a process that failed does not wait for the others
        finish()
    sys.exit(code)


def run(arguments: list[str], *, debug: bool = False) -> int:
    """Run the command line; the exit code. Errors become one line on standard error, with `debug` a traceback."""
    try:
        if arguments[:1] and arguments[0] in REACHING:
            _offline()
        return int(app(arguments, standalone_mode=False) or 0)
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        if isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError) and _is_unread():
            return 1  # a list or JSON, as with `| head`; what works goes on (`aapo.progress`)
        with stopping.ignored():
            if debug:
                traceback.print_exc()
            message, code = _explain(error)
            said = visible(" ".join(message.split()))
            watching.say(said, interrupted=isinstance(error.__cause__ or error, KeyboardInterrupt))
        return code


def _is_unread() -> bool:
    """Whether standard output is a pipe that nobody reads any more."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _explain(error: BaseException) -> tuple[str, int]:
    """One line for the user, and the exit code."""
    from typer.exceptions import TyperException

    from aapo.files import is_full

    if isinstance(error, InputError):
        return str(error), 2
    if isinstance(error, AapoError):
        return str(error), 1
    if isinstance(error, TyperException):
        return error.format_message(), 2
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return "interrupted before anything was begun", 1
    if isinstance(error, SystemExit):
        return f"the program was ended from inside, by exit({error.code}) (--debug shows where)", 1
    if watching.is_lost_connection(error):
        return "another process of this launch has ended, so this one stops; what is on disk is whole", 1
    if is_full(error):
        return "no disk space left; nothing was half-written, free some and go on with --resume", 1
    return f"{type(error).__name__}: {' '.join(str(error).split())} (--debug shows where)", 1


def _offline() -> None:
    """Tell the Hub's libraries, before they are imported, that there is no way to it; they would try for minutes."""
    if any(os.environ.get(name) for name in ("HF_HUB_OFFLINE", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return
    host = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"


def _quiet() -> None:
    """Keep libraries' chatter off the terminal; their errors stay."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    for name in ("transformers", "trl", "accelerate", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)
