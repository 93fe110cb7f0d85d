"""torchrun for `aapo`: `python -m aapo.torchrun --standalone --nproc_per_node=4 -m aapo train RECIPE`.

It takes torchrun's arguments and is torchrun, but for four things: it exits with the code of the process that failed
first, and says in one line what torchrun says on a page; SIGUSR1 is passed on like SIGTERM; processes that are to stop
get an hour for the step that they are in and its checkpoint, not 30 seconds; and no process outlives it.
"""

import logging
import os
import signal
import sys
from types import FrameType

from aapo.processes import PARENT, end_with_parent, signal_words


def main(arguments: list[str]) -> int:
    """Run torchrun with its arguments; the exit code."""
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "3600")
    end_with_parent()
    os.environ[PARENT] = str(os.getpid())
    logging.disable(logging.ERROR)  # each of its modules has a level of its own
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    def pass_on(number: int, frame: FrameType | None) -> None:
        raise SignalException(f"torchrun got {number}", signal.Signals(number))

    signal.signal(signal.SIGUSR1, pass_on)
    try:
        run(parse_args(arguments))
    except SignalException as error:
        return _stopped(error.sigval)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode > 0:
            return failure.exitcode
        print(f"aapo: process {rank} was {signal_words(-failure.exitcode)}", file=sys.stderr)
        return 1
    return 0


def _stopped(number: signal.Signals) -> int:
    print(f"aapo: all processes were stopped by {number.name}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
