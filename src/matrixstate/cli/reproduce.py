"""`matrixstate reproduce`."""

import sys
from pathlib import Path

from tyro.conf import Positional, UseAppendAction

from matrixstate.cli.compare import check_jobs, train_all
from matrixstate.cli.compare_show import show
from matrixstate.cli.output import print_json
from matrixstate.comparison.claims import Claim, all_claims, find_claim
from matrixstate.comparison.running.comparison_set import ComparisonSet, open_any, prepare
from matrixstate.comparison.running.pool import Interrupted
from matrixstate.comparison.running.tables import RESULTS, Result, read_rows
from matrixstate.devices import find_device
from matrixstate.errors import ConfigError

SHORT = "the short form: it shows that everything runs and the direction of the effects; the band is for the full form"
CHANGED = "of a changed suite: the band is for the claim's own"


def reproduce(
    claim: Positional[str | None] = None,
    *,
    list: bool = False,
    smoke: bool = False,
    text: UseAppendAction[tuple[Path, ...]] = (),
    out: Path | None = None,
    device: str = "auto",
    jobs: int | None = None,
    set: UseAppendAction[tuple[str, ...]] = (),
    redraw: bool = False,
    json: bool = False,
) -> int:
    """Test a published claim: train, report, and say whether it was reproduced.

    The exit status does not depend on the verdict. The same command resumes after Ctrl-C.

    Args:
        claim: The name of the claim, as printed by --list.
        list: Print every claim with the expected results and the cost.
        smoke: Run the short form, which takes a few minutes.
        text: A file or folder of UTF-8 text that replaces the claim's.
        out: The output directory. Default: runs/reproduce-NAME.
        device: "auto" (the GPU if there is one), "cpu", "cuda", "cuda:N" or "mps".
        jobs: Number of trainings that run at once, one thread each. Default: the cores this process may use, or 1 on
            a GPU.
        set: An option of the claim's suite, as in seeds=5.
        redraw: Only judge the claim and redraw figures and report, from the CSV files.
        json: Print the result as one JSON object.
    """
    if list:
        return _list(json)
    if claim is None:
        raise ConfigError("reproduce: expected the name of a claim, or --list")
    place = find_device(device)
    found, workers = find_claim(claim), check_jobs(jobs, place)
    if redraw and (text or set):
        raise ConfigError("--redraw: expected no --text or --set")
    suite = found.suite(smoke=smoke, text=text, changes=set)
    found.is_short(suite)  # raises if --set changed the suite's name
    directory = out or Path("runs") / f"reproduce-{suite.name}"
    if not redraw:
        try:
            train_all(prepare(directory, suite, place), workers, quiet=json)
        except Interrupted as stop:
            print("stopped; nothing is lost. Run the same command to resume", file=sys.stderr)
            return 128 + stop.signal
    return _judge(found, directory, smoke, json)


def _judge(claim: Claim, directory: Path, smoke: bool, json: bool) -> int:
    """Judges the comparison in the directory and shows it, with verdict and changes of the suite above the findings."""
    existing = open_any(directory)
    if isinstance(existing, ComparisonSet):
        raise ConfigError(f"reproduce: expected a comparison of {claim.name}, got one of several parts in {directory}")
    short, changes = claim.is_short(existing.suite), claim.changes(existing.suite)
    if smoke and not short:
        raise ConfigError(f"--smoke: expected the short form in {directory}, got the full one")
    verdict = claim.judge(read_rows(directory / RESULTS, Result))
    outcome = verdict.outcome if verdict.outcome == "reproduced" else verdict.outcome.upper()
    notes = [f"Claim: {claim.statement}", f"Source: {claim.source}.", f"Expected: {claim.band}"]
    limits = "; ".join([*([SHORT] if short else []), *([CHANGED] if changes else [])])
    notes += [f"Verdict: {outcome}{f' ({limits})' if limits else ''}.", *verdict.reasons]
    notes += [f"Changed: {'; '.join(changes)}."] if changes else []
    return show(directory, json, notes)


def _list(json: bool) -> int:
    claims = all_claims()
    if json:
        names = ("name", "statement", "source", "band", "cost", "smoke_cost")
        print_json({"claims": [{name: getattr(claim, name) for name in names} for claim in claims]})
        return 0
    for claim in claims:
        print(f"{claim.name}: {claim.statement}")
        print(f"    source: {claim.source}\n    expected: {claim.band}")
        print(f"    cost on two cores: {claim.cost}; with --smoke {claim.smoke_cost}\n")
    return 0
