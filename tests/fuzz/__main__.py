"""`python -m tests.fuzz --seconds 20`: try every target for its share of the time, from tests/fuzz/corpus/<target>/.

Coverage-guided by atheris where it is installed (the test extra, on Linux), each target in a process of its own, as libFuzzer
never returns; otherwise by plain mutation, so that the check runs everywhere.  A finding is written to the current folder and
told; put the smallest form of it into the corpus, which tests/test_fuzz_corpus.py replays.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


def guided(name: str, seconds: int) -> None:
    """Run libFuzzer over one target; never returns."""
    import atheris

    with atheris.instrument_imports(include=["proxy"]):
        from tests.fuzz.targets import TARGETS
    with tempfile.TemporaryDirectory() as found:
        atheris.Setup([name, f"-max_total_time={seconds}", "-max_len=4096", "-timeout=20", f"-artifact_prefix=fuzz-{name}-", found,
                       str(CORPUS / name)], TARGETS[name])
        atheris.Fuzz()


def mutate(data: bytes, chance: random.Random) -> bytes:
    made = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        at = chance.randint(0, len(made))
        kind = chance.randint(0, 4)
        if kind == 0 and made:
            made[at % len(made)] = chance.choice((0, 1, 4, 5, 0x7F, 0x80, 0xFF, chance.randint(0, 255)))
        elif kind == 1:
            made[at:at] = chance.randbytes(chance.randint(1, 8))
        elif kind == 2 and made:
            del made[at:at + chance.randint(1, 8)]
        elif kind == 3:
            made += made[at:at + 40]
        else:
            made = made[:at]
    return bytes(made[:20_000])


def blind(name: str, seconds: float, seed: int) -> None:
    """Mutation without guidance."""
    from tests.fuzz.targets import TARGETS

    chance = random.Random(seed)
    end, runs, pool = time.monotonic() + seconds, 0, [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
    while time.monotonic() < end:
        data = mutate(chance.choice(pool), chance)
        try:
            TARGETS[name](data)
        except BaseException:
            sys.stderr.write(f"{name} failed on {data!r} (seed {seed})\n")
            raise
        runs += 1
        if runs % 50 == 0 and len(pool) < 500:
            pool.append(data)
    sys.stdout.write(f"{name}: {runs} blind runs, no fault but ours\n")


def main() -> int:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--seconds", type=float, default=20, help="for all targets together")
    arguments.add_argument("--seed", type=int, default=None, help="of the blind runs")
    arguments.add_argument("--target", action="append", help="only this one; may be given again")
    arguments.add_argument("--inside", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.inside:
        guided(options.inside, int(options.seconds))
    names = options.target or sorted(path.name for path in CORPUS.iterdir())
    share = options.seconds / len(names)
    if importlib.util.find_spec("atheris") is None:
        sys.stdout.write("atheris is not installed: mutation without guidance\n")
        for name in names:
            blind(name, share, options.seed if options.seed is not None else random.SystemRandom().randint(0, 2**31))
        return 0
    failed = []
    for name in names:
        done = subprocess.run([sys.executable, "-m", "tests.fuzz", "--inside", name, "--seconds", str(max(1, round(share)))],
                              check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                              env={**os.environ, "PYTHONWARNINGS": "ignore"})
        if done.returncode:
            failed.append(name)
            sys.stdout.write(done.stdout[-6000:])
        else:
            sys.stdout.write(f"{name}: {next((line for line in done.stdout.splitlines() if line.startswith('Done')), '')}\n")
        sys.stdout.flush()
    if failed:
        sys.stdout.write(f"failed: {', '.join(failed)}\n")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
