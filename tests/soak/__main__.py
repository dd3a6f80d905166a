"""A study that is maltreated from beginning to end, and what must be true of it afterwards.

    make soak                                # or: .ci/offline python -m tests.soak [--trials 60] [--faults 20]

A search of short trials on three local Ray nodes with a real MLflow server, run by the real command, while workers,
nodes, drivers and the server are killed again and again. At the end each trial must stand once in the journal and in
MLflow, with the numbers that the training loop alone gives for its config. Exit code 1 when one check fails.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from search.spec.load import load_spec
from search.study.study import Study, read_study
from tests.soak import alone, checks
from tests.soak.faults import Maltreated, schedule, settled
from tests.soak.nodes import Nodes
from tests.soak.processes import Driver, Server, adopt, ours, said, until

BASE = """corpus: stories:120
n_layer: 2
n_head: 2
n_embd: 32
block_size: 16
batch_size: 4
max_tokens: 96k
eval_every: 6k
eval_tokens: 1500
schedule: wsd
device: cpu
"""
# points of a random sampler depend on seed and number alone; a vocabulary of 3 is too small: such a trial fails
SPEC = """study: soak
base: {folder}/base.yaml
space:
  learning_rate: {{log: [1e-3, 1e-1]}}
  vocab_size: {{choice: [64, 68, 72, 76, 80, 84, 88, 3]}}
sampler: random
scheduler: {scheduler}
budget: {{trials: {trials}}}
max_failures: 20
seed: {seed}
storage: {storage}
"""
ASHA = "{{asha: {{first_rung: 24k, factor: 2, mode: {}}}}}"


def write(folder: Path, trials: int, seed: int, scheduler: str, storage: str = "runs") -> Path:
    (folder / "base.yaml").write_text(BASE)
    path = folder / f"{storage}.yaml"
    path.write_text(SPEC.format(folder=folder, trials=trials, seed=seed, scheduler=scheduler, storage=folder / storage))
    return path


class Verdict:
    """Checks, each printed as a line."""

    failed = 0

    def __call__(self, what: str, wrong: list[str]) -> None:
        self.failed += bool(wrong)
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        print(f"{'FAIL' if wrong else 'pass'}  {what}{': ' if wrong else ''}{'; '.join(wrong[:3])}{more}", flush=True)


def soak(given: argparse.Namespace, folder: Path, work: Path) -> bool:
    """folder: what may be kept; work: sockets and scratch files, with a short name. Whether all is well."""
    adopt()
    scratch = work / "t"
    scratch.mkdir()
    os.environ.update(_environment(folder, work))
    server = Server(folder)
    server.start()
    spec_path = write(folder, given.trials, given.seed, ASHA.format(given.mode))
    nodes = Nodes(2, dict(os.environ), folder / "ray.log")
    server.wait()
    environment = {**os.environ, "MLFLOW_TRACKING_URI": server.uri, "TMPDIR": str(scratch)}
    driver = Driver(spec_path, nodes.address, environment, folder / "driver.log")
    journal = folder / "runs" / "soak" / "trials.jsonl"
    study = Maltreated(driver, nodes, server, journal, given.seed)
    verdict = Verdict()
    try:
        try:
            study.run(schedule(given.faults, given.trials, given.seed))
        except (RuntimeError, TimeoutError) as error:
            study.breakdowns.append(str(error))
        verdict("nothing broke down that nobody had touched", study.breakdowns)
        short = f"only {len(study.done)} of {given.faults} before the study had ended"
        verdict(f"{len(study.done)} faults were done", [] if len(study.done) >= given.faults else [short])
        verdict("the same command on the finished study repeats nothing", _again(study))
        verdict("no worker trains after the last driver", settled())
        verdict("MLflow shows each trial once, with the journal's status and numbers", _mlflow(journal, server.uri))
    finally:
        driver.kill()
        nodes.close()
        server.kill()
    verdict("no process is left", _left())
    verdict("no scratch folder is left", sorted(path.name for path in scratch.glob("nanosweep-*")))
    _check_journal(verdict, study, spec_path, given)
    _summary(study)
    return not verdict.failed


def _environment(folder: Path, work: Path) -> dict[str, str]:
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": str(work),
        "NANOSWEEP_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }


def _again(study: Maltreated) -> list[str]:
    """Also sends what MLflow lacks, had the server been away at the end."""
    before = study.follower.path.read_bytes()
    study._start()
    code = until(lambda: (study.driver.code() is not None) and [study.driver.code()], 120, "the same command")[0]
    wrong = [] if code == 0 else [f"it ended with {code}: {study.driver.last_lines()}"]
    return wrong + ([] if study.follower.path.read_bytes() == before else ["the journal has grown"])


def _mlflow(journal: Path, uri: str) -> list[str]:
    return checks.mlflow(read_study(journal.parent), uri)


def _left() -> list[str]:
    try:
        until(lambda: not ours(), 15, "processes")
    except TimeoutError:
        left = ours()
        lines = [said(process) for process in left]
        for process in left:
            process.kill()
        return lines
    return []


def _check_journal(verdict: Verdict, study: Maltreated, spec_path: Path, given: argparse.Namespace) -> None:
    spec, _, _ = load_spec(spec_path)
    records, folded = study.follower.records, study.follower.study
    verdict(
        f"each of {given.trials} trials has one point, that of its seed and number",
        checks.points(records, spec, study.header.base),
    )
    verdict("each trial ended once, and nothing is written of it afterwards", checks.endings(records, folded))
    verdict("only what is wrong in itself failed", checks.failures(folded))
    verdict("reports grow, and each start is from the last checkpoint", checks.progress(records))
    verdict("no half-written file is left", checks.files(study.follower.path.parent))
    verdict("one decision per trial and rung", checks.decisions(records))
    began = time.monotonic()
    undisturbed = alone.train_all(list(folded.trials.values()), _rungs(spec, folded))
    seconds = time.monotonic() - began
    n = sum(len(reports) for reports in undisturbed.values())
    verdict(
        f"all {n} reports are those of the loop alone ({seconds:.0f} s), to the last bit",
        checks.values(folded, undisturbed),
    )
    if given.against_search:
        other = write(spec_path.parent, given.trials, given.seed, "none", "undisturbed")
        searched = alone.search_all(other, spec_path.parent / "undisturbed" / "soak")
        wrong = checks.values(folded, searched, only_full=True)
        verdict("every completed trial is that of an undisturbed search", wrong)


def _rungs(spec: Any, study: Study) -> dict[int, list[int]]:
    """By bracket: the trials of this study are all of one length."""
    length = study.header.base.max_tokens
    return {trial.bracket: spec.rungs(length, trial.bracket) for trial in study.trials.values()}


def _summary(study: Maltreated) -> None:
    by_kind, by_status = Counter(study.done), Counter(t.status for t in study.follower.study.trials.values())
    started = Counter(r["trial"] for r in study.follower.records if r.get("status") == "running")
    again = sum(n - 1 for n in started.values())
    print(f"faults: {', '.join(f'{n} {kind}' for kind, n in sorted(by_kind.items()))}")
    print(f"trials: {', '.join(f'{n} {status}' for status, n in sorted(by_status.items()))}")
    print(f"{study.driver.starts} drivers; trials continued {again} times; {time.monotonic() - study.began:.0f} s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mode", choices=("stop", "promote"), default="stop", help="of ASHA")
    parser.add_argument("--keep", type=Path, help="a new folder for journal, logs and MLflow's store")
    about = "then the same search undisturbed and without a scheduler too: every trial at full length"
    parser.add_argument("--against-search", action="store_true", help=about)
    given = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="soak-", dir="/tmp"))  # short: Ray's sockets lie in it
    folder = (given.keep or work / "kept").resolve()
    folder.mkdir(parents=True)
    well = False
    try:
        well = soak(given, folder, work)
    finally:
        if well or given.keep:
            shutil.rmtree(work, ignore_errors=True)
        else:
            print(f"journal and logs: {folder}")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
