"""Children: processes that do one job each and are killed in the midst of it (SIGKILL, as a user or the kernel does).

In: the job as Python text, and when to kill.
"""

from __future__ import annotations

import json
import time
from typing import Any

from tests.forked import ROOT, Interpreters

JOB = """
import json, sys, time
import torch
from landscape_hooks import Local, Random, analyze, cli, record
from landscape_hooks.analysis import commits
from landscape_hooks.recording import background
from tests.faults.disk import Disk
from tests.faults.training import Model, train
background.GROUP_SECONDS = 0.02
commits.COMMIT_SECONDS = 0.0
job, folder, at = json.loads(sys.argv[1])
said, sys.stdout = sys.stdout, open("/dev/null", "w")
start = time.monotonic()
with Disk(folder, "killed" if at is not None else "", at or 0) as disk:
    exec(job)
json.dump({"calls": len(disk.calls), "ended": True, "seconds": time.monotonic() - start}, said)
"""


class Children:
    """Does jobs in processes of their own."""

    def __init__(self, interpreters: Interpreters) -> None:
        self._interpreters = interpreters

    def run(self, job: str, folder: Any, *, at: int | None = None, after: float | None = None) -> dict[str, Any]:
        """Do a job; kill it `after` so many seconds, or at operation `at` on the files below `folder`.

        What it came to: whether it `ended` by itself, in how many `seconds` and `calls`.
        """
        process = self._interpreters.start(JOB, json.dumps([job, str(folder), at]), cwd=ROOT)
        if after is not None:
            time.sleep(after)
            process.kill()
        report, trouble = process.communicate()
        assert process.returncode in (0, -9), trouble
        return json.loads(report) if report else {"ended": False, "signal": 9}
