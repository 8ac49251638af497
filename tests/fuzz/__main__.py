"""The long run of the fuzz tests: `python -m tests.fuzz --minutes 10`.

Prints each failure with the seed that makes it again (`--kind run --seed 123 --count 1`), and the counts at the end.
"""

import argparse
import contextlib
import io
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # tests/commands.py takes back what a command has set

from tests.fuzz.inputs import KINDS, cases, genuine_run
from tests.fuzz.watch import watched


def main() -> int:
    """Runs for the time asked for. Returns 1 when something failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=None, help="cases of each kind, instead of a time")
    parser.add_argument("--kind", choices=[*KINDS], action="append")
    options = parser.parse_args()
    kinds = options.kind or [*KINDS]
    counts, failures = Counter(), Counter()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        if "run" in kinds:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                genuine_run(place)
        sources = {kind: cases(kind, place, seed=options.seed) for kind in kinds}
        deadline = time.monotonic() + 60 * options.minutes
        while time.monotonic() < deadline and (
            options.count is None or min(counts[k] for k in kinds) < options.count
        ):
            kind = min(kinds, key=lambda name: counts[name] * (10 if name == "run" else 1))
            seed, case, folder = next(sources[kind])
            counts[kind] += 1
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                wrong = watched(case.call, folder)
                if (place / "ran").exists():
                    wrong += " ran code"
                    (place / "ran").unlink()
            if wrong:
                failures[kind] += 1
                print(f"{kind} {seed}: {case.name}\n    {wrong}", flush=True)
    for kind in kinds:
        print(f"{kind}: {counts[kind]} inputs, {failures[kind]} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
