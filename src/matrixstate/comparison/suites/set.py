"""Sets: suites of several parts, with the same entries on several tasks or texts, in one YAML file."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matrixstate.comparison.suites.files import make_suite, with_files
from matrixstate.comparison.suites.suite import PLAIN, SuiteConfig, TaskSuite, TextSuite, is_plain
from matrixstate.configs import load_yaml, override
from matrixstate.errors import ConfigError
from matrixstate.training import TaskTrainingConfig, TextTrainingConfig
from matrixstate.training.reading import names_task

SHARED = ("name", "seeds", "first_seed", "models", "control")
"""Options that are the same in all parts, so that no part may set them."""
TRAININGS: dict[type[SuiteConfig], type] = {TaskSuite: TaskTrainingConfig, TextSuite: TextTrainingConfig}


@dataclass(frozen=True)
class SuiteSet:
    """Several suites with the same entries and seeds: one comparison of several parts."""

    name: str
    """The default directory is runs/NAME."""
    title: str | None
    """Of the report. Default: the name."""
    parts: dict[str, SuiteConfig]
    """Each part's suite, by its name, in the order of the file."""
    source: dict[str, Any]
    """The plain data of the set, from which `make_set` makes an equal set."""

    @property
    def heading(self) -> str:
        return self.title or self.name

    @property
    def own_options(self) -> dict[str, dict[str, Any]]:
        """The options that each part sets itself."""
        return {name: part or {} for name, part in self.source["parts"].items()}

    @property
    def seeds(self) -> int:
        """Number of trainings of each entry in every part."""
        return next(iter(self.parts.values())).seeds

    def with_seeds(self, seeds: int | None) -> "SuiteSet":
        """The same set with another number of seeds; unchanged for None. Raises ConfigError for fewer than one."""
        return self if seeds is None else make_set({**self.source, "seeds": seeds})


def load_any(path: Path, assignments: Iterable[str] = (), files: Iterable[Path] = ()) -> SuiteConfig | SuiteSet:
    """The set in a YAML file if it has `parts`, else the suite in it.

    `assignments` are "a.b=value" overrides, `files` replace the text of the part that is trained on one. Raises
    ConfigError with all mistakes at once.
    """
    data = _overridden(load_yaml(path), assignments)
    data.setdefault("name", path.stem)
    return make_set(data, files=files) if "parts" in data else make_suite(data, files=files)


def _overridden(data: dict[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """`override`, which may change parts but not add any."""
    known, changed = data.get("parts"), override(data, assignments)
    if isinstance(known, dict) and isinstance(changed["parts"], dict):
        made = [
            f"--set parts.{name}: expected one of {', '.join(map(str, known))}"
            for name in changed["parts"].keys() - known
        ]
        if made:
            raise ConfigError(made)
    return changed


def make_set(data: dict[str, Any], assignments: Iterable[str] = (), files: Iterable[Path] = ()) -> SuiteSet:
    """The set in plain data. Options beside `parts` are common: they apply to every part that does not set them itself.

    `training` is merged option by option: an entry's override the part's, which override the common ones. In a set with
    tasks and texts, a common option that only one kind has applies to the parts of that kind. Raises ConfigError with
    the mistakes of all parts at once, those in common options once.
    """
    data = _overridden(data, assignments)
    data = _with_text(data, [str(file.absolute()) for file in files])
    parts, problems = _parts(data)
    common = {key: value for key, value in data.items() if key not in ("parts", "name", "title")}
    kinds = {name: _kind(part, common) for name, part in parts.items()}
    name, title = data.get("name"), data.get("title")
    if not (isinstance(name, str) and is_plain(name)):
        problems.append(f"name: expected {PLAIN}, got {name!r}")
    if not (title is None or isinstance(title, str)):
        problems.append(f"title: expected text, got {title!r}")
    if not isinstance(_given(common, "training"), dict):
        problems.append(f"training: expected a mapping of options, got {common.pop('training')!r}")
    suites, found = {}, {}
    for part, own in parts.items():
        others = set(kinds.values()) - {kinds[part]}
        try:
            suites[part] = make_suite({**_merged(_applicable(common, kinds[part], others), own), "name": part})
        except ConfigError as error:
            found[part] = error.problems
    problems += merge_part_problems(found, parts)
    if problems:
        raise ConfigError(problems)
    assert isinstance(name, str)
    return SuiteSet(name, title, suites, data)


def _parts(data: dict[str, Any]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The options that each part sets itself, and problems with its form. Raises ConfigError if there are no parts."""
    parts = data.get("parts")
    if not isinstance(parts, dict) or not parts:
        raise ConfigError(f"parts: expected a mapping from names to options, got {parts!r}")
    found, problems = {}, []
    for name, part in parts.items():
        if not (isinstance(name, str) and is_plain(name)):
            problems.append(f"parts: expected names of {PLAIN}, got {name!r}")
        elif not (part is None or isinstance(part, dict)):
            problems.append(f"parts.{name}: expected a mapping of options, got {part!r}")
        else:
            own = part or {}
            problems += [f"parts.{name}.{key}: expected beside parts, for all of them" for key in SHARED if key in own]
            found[name] = {key: value for key, value in own.items() if key not in SHARED}
    return found, problems


def _kind(part: Mapping[str, Any], common: Mapping[str, Any]) -> type[SuiteConfig]:
    return TaskSuite if names_task(part.get("data", common.get("data"))) else TextSuite


def _with_text(data: dict[str, Any], files: Sequence[str]) -> dict[str, Any]:
    """The data with the text files in the one part that is trained on a text."""
    if not files:
        return data
    parts, _ = _parts(data)
    texts = [name for name, part in parts.items() if _kind(part, data) is TextSuite]
    if len(texts) != 1:
        raise ConfigError(f"--text: expected one part that is trained on a text, got {', '.join(texts) or 'none'}")
    (name,) = texts
    given = with_files(parts[name].get("data", data.get("data")), files)
    return {**data, "parts": {**data["parts"], name: {**(data["parts"][name] or {}), "data": given}}}


def _applicable(common: dict[str, Any], kind: type[SuiteConfig], others: Iterable[type[SuiteConfig]]) -> dict[str, Any]:
    """The common options without those that only the set's parts of other kinds have."""

    def training(options: Any) -> Any:
        return _known(options, TRAININGS[kind], [TRAININGS[other] for other in others])

    def entry(options: Any) -> Any:
        has_own = isinstance(options, dict) and "training" in options
        return {**options, "training": training(options["training"])} if has_own else options

    found = _known(common, kind, others)
    if "training" in found:
        found["training"] = training(found["training"])
    if isinstance(found.get("models"), list):
        found["models"] = [entry(one) for one in found["models"]]
    return found


def _known(options: Any, kind: type, others: Iterable[type]) -> Any:
    """The options without those that the other kinds have and `kind` does not."""
    if not isinstance(options, dict):
        return options
    foreign = {name for other in others for name in _names(other)} - _names(kind)
    return {key: value for key, value in options.items() if key not in foreign}


def _names(config: type) -> set[str]:
    return {field.name for field in dataclasses.fields(config)}


def _merged(common: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a part: its own override the common ones; those of `training` one by one."""
    merged, training = {**common, **own}, _given(own, "training")
    if isinstance(training, dict):  # else make_suite refuses it
        merged["training"] = {**_given(common, "training"), **training}
    return merged


def _given(options: Mapping[str, Any], key: str) -> Any:
    """The value of `key`; an empty mapping if it is missing or None."""
    return {} if options.get(key) is None else options[key]


def merge_part_problems(found: Mapping[str, Iterable[str]], parts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The problems of all parts, each with its part's name; a problem in a common option once, without names if in all.

    `found` maps a part to its problems, `parts` to the options that it sets itself.
    """
    own, shared = list[str](), dict[str, dict[str, str]]()  # shared: key that is equal in all parts -> part -> problem
    for part, problems in found.items():
        for problem in problems:
            path = problem.partition(":")[0]
            if _sets(parts[part], path.split(".")):
                own.append(f"parts.{part}.{problem}")
            else:
                alike = path if ": unknown key" in problem else problem  # which keys are near depends on the part
                shared.setdefault(alike, {}).setdefault(part, problem)
    merged = []
    for problem in shared.values():
        text = next((text for text in problem.values() if "did you mean" in text), next(iter(problem.values())))
        where = "" if len(problem) == len(parts) else f"parts.{', parts.'.join(problem)}: "
        merged.append(f"{where}{text}")
    return [*merged, *own]


def _sets(part: Any, path: Sequence[str]) -> bool:
    """Whether a part itself sets the option at `path`. Below the first key only `training` is merged."""
    if path[0] != "training" or len(path) == 1:
        return path[0] in part
    return isinstance(part.get("training"), dict) and path[1] in part["training"]
