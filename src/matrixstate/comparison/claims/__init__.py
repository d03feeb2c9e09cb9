"""Published claims as tests that can be run: a suite, the band of results expected, and a judge of the results.

Each is a YAML file beside this one: statement, source, band, cost, the overrides of its short form, and its suite. The
short form shows that everything runs and the direction of the effects; the band applies to the full form.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matrixstate.comparison.claims.judges import JUDGES, Verdict
from matrixstate.comparison.running.tables import Result
from matrixstate.comparison.suites.files import as_data, make_suite
from matrixstate.comparison.suites.suite import SuiteConfig
from matrixstate.configs import flatten, load_yaml, nearest
from matrixstate.errors import ConfigError, require

__all__ = ["Claim", "Verdict", "all_claims", "find_claim"]

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Claim:
    """One statement of a source and its test."""

    name: str
    statement: str
    source: str
    band: str
    """The results that count as reproduced."""
    cost: str
    """Of the full form, on two cores."""
    smoke_cost: str
    smoke: tuple[str, ...]
    """Overrides of the short form, as in --set."""
    data: dict[str, Any]
    """The suite as plain data."""

    def suite(self, *, smoke: bool = False, text: Iterable[Path] = (), changes: Iterable[str] = ()) -> SuiteConfig:
        """The suite that tests the claim."""
        name = f"{self.name}-smoke" if smoke else self.name
        overrides = [*(self.smoke if smoke else ()), *changes]
        return make_suite({"name": name, "title": name, **self.data}, overrides, text)

    def is_short(self, suite: SuiteConfig) -> bool:
        """Whether a suite is the claim's short form, by its name. Raises ConfigError if it is of another claim."""
        names = (self.name, f"{self.name}-smoke")
        require((suite.name in names, f"reproduce: expected the suite {' or '.join(names)}, got {suite.name!r}"))
        return suite.name != self.name

    def changes(self, suite: SuiteConfig) -> list[str]:
        """The differences of a suite from the claim's or its short form; those in all models' training once."""
        own, given = (flatten(as_data(one)) for one in (self.suite(smoke=self.is_short(suite)), suite))
        keys = [key for key in {**own, **given} if own.get(key) != given.get(key)]
        differences = (f"{_shared(key)} = {given.get(key)!r} instead of {own.get(key)!r}" for key in keys)
        return list(dict.fromkeys(differences))

    def judge(self, rows: Sequence[Result]) -> Verdict:
        """The verdict of the results on the claim."""
        return JUDGES[self.name](rows)


def _shared(key: str) -> str:
    return re.sub(r"^models\.\d+\.training\.", "training.", key)


def all_claims() -> list[Claim]:
    """Every claim, by name."""
    return [_load(path) for path in sorted(HERE.glob("*.yaml"))]


def find_claim(name: str) -> Claim:
    """The claim with that name. Raises ConfigError with the nearest name if there is none."""
    known = {path.stem: path for path in HERE.glob("*.yaml")}
    if name not in known:
        raise ConfigError(f"reproduce: no claim is named {name!r}{nearest(name, known)}")
    return _load(known[name])


def _load(path: Path) -> Claim:
    data = load_yaml(path)
    texts = {key: " ".join(str(data[key]).split()) for key in ("statement", "source", "band", "cost", "smoke_cost")}
    return Claim(name=path.stem, smoke=tuple(data["smoke"]), data=data["suite"], **texts)
