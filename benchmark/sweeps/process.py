"""A worker process of a sweep: reads its request from standard input, so that nothing of it stands in a process list.

``python -m sidbench.benchmark.sweeps.process INDEX``, started by the command; the exit code is that of `bench`.
"""

from __future__ import annotations

import json
import signal
import sys

from sidbench.benchmark.runtime.reporter import PlainReporter
from sidbench.benchmark.sweeps.request import SweepRequest
from sidbench.benchmark.sweeps.session import open_session
from sidbench.datasets.foundation.errors import SidbenchError

EXIT_INTERRUPTED = 130


class NamedReporter(PlainReporter):
    """Plain lines, each with the worker's number in front."""

    def __init__(self, worker: int) -> None:
        super().__init__()
        self._worker = worker

    def line(self, message: str) -> None:
        super().line(f"[{self._worker}] {message}")


def main(worker: int, text: str) -> int:
    """Work on every study of the request, one after the other; returns an exit code."""
    reporter = NamedReporter(worker)
    try:
        order = json.loads(text)
        request = SweepRequest.of(order["request"])
        for tokenizer in request.tokenizers:
            open_session(request, tokenizer, reporter, int(order["threads"])).work()
    except SidbenchError as error:
        reporter.line(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored when a script started the sweep in the background
    sys.exit(main(int(sys.argv[1]), sys.stdin.read()))
