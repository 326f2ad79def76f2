"""Experiments: YAML that extends YAML, checked against a model, locked by a digest.

`extends: NAME` starts from experiment NAME; mappings merge, lists and scalars replace. `!include FILE` inlines
another file, which replaces what the extended experiment has there. A path may stand where a name does. Every leaf
remembers the file and line it came from, so an error can name them. A locked experiment refuses to run once its
resolved content differs from `experiment_NAME.lock`; `make lock` renews it. `unlocked: [KEY, ...]` names dotted keys
whose values the lock leaves out; the list itself is under the lock.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from yaml.constructor import SafeConstructor

from engine.errors import ConfigError, RetainError
from engine.paths import path_of, why_unreadable

Model = TypeVar("Model", bound=BaseModel)
Key = tuple[str | int, ...]

PLAIN = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
TEXT = "tag:yaml.org,2002:str"
INCLUDE = "!include"
# What YAML 1.1 reads as octal, hexadecimal, binary or sexagesimal: 010 as 8, 1:30 as 90. In a table they are codes.
_READ_AS = {
    value: f": without them YAML reads it as {word}"
    for value, word in ((True, "true"), (False, "false"), (None, "null"))
}
ODD_NUMBER = re.compile(r"[-+]?(0[0-9xb_].*|.*:.*)")

# Files are read by libyaml, some ten times faster than Python's reader. But it ends the process on a file that nests
# some ten thousand levels deep, so a file that could nest deeper than MOST_LEVELS is left to Python's reader.
_FAST = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MOST_LEVELS = 5_000
MOST_CHARACTERS = 1_000_000

MOST_NODES = 20_000

BRANCHES = ("str", "int", "float")  # what pydantic adds to the key of a value that may be of either
WANTED = "Input should be "
# Of the argument by which a command takes an experiment.
EXPERIMENT_HELP = "NAME of ops/configs/experiment_NAME.yaml, or the path of a file"
CONFIGS = Path(__file__).resolve().parent.parent / "ops" / "configs"


@dataclass(frozen=True)
class Resolved:
    """An experiment after `extends` and `!include`.

    `origins` maps the key of each node to "file:line"; `spelled` the key of each scalar that is no text to what stands
    in the file; `unlocked` are the dotted keys that the lock leaves out. `stated` are the keys that stand in each file
    of the chain of `extends`, or are included there: the file that extends none comes first, the experiment's own last.
    """

    tag: str
    path: Path
    data: dict[str, Any]
    locked: bool
    origins: Mapping[Key, str]
    unlocked: tuple[str, ...] = ()
    spelled: Mapping[Key, str] = field(default_factory=dict)
    stated: tuple[Set[Key], ...] = ()


def experiment_path(named: str) -> Path:
    """The file of the experiment of a name in ops/configs, or of a path anywhere. Raises ConfigError."""
    path = (
        Path(os.path.abspath(path_of("EXPERIMENT", named))) if is_path(named) else CONFIGS / f"experiment_{named}.yaml"
    )
    if not os.path.isfile(path):  # Path.is_file() raises for a name that is too long
        raise ConfigError(
            f"no experiment {named!r}: {path} does not exist. Known: {', '.join(known_experiments()) or 'none'}. "
            "A file elsewhere is named by its path"
        )
    shipped = CONFIGS / f"experiment_{tag_of(path)}.yaml"
    if os.path.isfile(shipped) and not os.path.samefile(shipped, path):
        raise ConfigError(
            f"{path}: {tag_of(path)!r} is the name of {shipped}, too, and both would write into the same folder of the "
            "store. Give the file and its tag another name"
        )
    return path


def known_experiments() -> list[str]:
    """The names of the experiments in ops/configs."""
    return sorted(tag_of(path) for path in CONFIGS.glob("experiment_*.yaml"))


def is_path(named: str) -> bool:
    """Whether an experiment is named by the path of its file: such a name has a slash, or ends like a YAML file."""
    return os.sep in named or named.endswith((".yaml", ".yml"))


def tag_of(path: Path) -> str:
    """The experiment's name that its file's name tells: experiment_mine.yaml and mine.yaml are both of `mine`."""
    return path.stem.removeprefix("experiment_")


def argument(path: Path) -> str:
    """What EXPERIMENT is set to for the experiment of that file: its name, or for one outside ops/configs the path."""
    return tag_of(path) if path.parent == CONFIGS else shlex.quote(str(path))


def _path(named: str, folder: Path) -> Path:
    """An absolute path: `named` may begin with ~, or be relative to `folder`."""
    return Path(os.path.abspath(folder / os.path.expanduser(named)))


def load(path: Path) -> Resolved:
    """The resolved experiment; raises ConfigError for anything that isn't one clean YAML mapping."""
    file = _resolve(path, ())
    data, origins = file.data, file.origins
    locked = data.pop("locked", False)
    if not isinstance(locked, bool):
        raise ConfigError(f"{origins[('locked',)]}: key 'locked' is {locked!r}: true or false is allowed")
    unlocked = _unlocked(data, origins)
    tag = data.get("tag")
    if not isinstance(tag, str) or not tag:
        raise ConfigError(f"{path}: key 'tag' is {tag!r}: the experiment's name is needed")
    if tag_of(path) != tag:
        raise ConfigError(f"{origins[('tag',)]}: key 'tag' is {tag!r}: it has to be the name in {path.name}")
    return Resolved(tag, path, data, locked, origins, unlocked, file.spelled, file.stated)


def validate(resolved: Resolved, model: type[Model]) -> Model:
    """The experiment as `model`; raises ConfigError with a line for every key that is wrong."""
    try:
        # Through JSON: strict mode then still takes lists for tuples, and refuses "8" for 8.
        return model.model_validate_json(json.dumps(resolved.data))
    except ValidationError as error:
        problems = _of_whole_values(resolved, error.errors(include_url=False))
        raise ConfigError("\n".join(_describe(resolved, problem) for problem in problems)) from None


def check_restated(resolved: Resolved, key: str, dependent: str) -> None:
    """Raises ConfigError if a file states the dotted `key` anew and leaves the `dependent` one as the file that it
    extends has it: the old values were meant for what the key was there."""
    for stated in reversed(resolved.stated):
        if tuple(dependent.split(".")) in stated:
            return
        path = tuple(key.split("."))
        if path in stated:
            earlier = resolved.origins[tuple(dependent.split("."))]
            raise ConfigError(
                f"{resolved.origins[path]}: key {key!r} is stated anew, but not {dependent!r}, which depends on it and "
                f"would stay as at {earlier}. Write {dependent!r} into the same file, too"
            )


def digest(resolved: Resolved) -> str:
    """sha256 of the resolved content without what is unlocked; comments, order of keys and file layout don't matter."""
    content = resolved.data
    for key in resolved.unlocked:
        content = _without(content, key.split("."))
    if resolved.unlocked:
        content = content | {"unlocked": list(resolved.unlocked)}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def lock_path(resolved: Resolved) -> Path:
    return resolved.path.with_suffix(".lock")


def check_lock(resolved: Resolved) -> None:
    if not resolved.locked:
        return
    path = lock_path(resolved)
    try:
        locked = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise ConfigError(f"{resolved.path}: locked, but {path.name} is missing. `make lock` writes it") from None
    except OSError as error:
        raise ConfigError(f"{path}: {why_unreadable(error)}") from None
    if locked.strip() != digest(resolved):
        raise ConfigError(
            f"{resolved.path}: locked, and its content is not what {path.name} was made for. "
            "Take the change back, or state a new experiment; `make lock` renews the digest on purpose"
        )


def write_lock(resolved: Resolved) -> Path:
    path = lock_path(resolved)
    aside = path.with_suffix(".lock.tmp")
    aside.write_text(digest(resolved) + "\n", encoding="utf-8")
    os.replace(aside, path)
    return path


def _unlocked(data: dict[str, Any], origins: Mapping[Key, str]) -> tuple[str, ...]:
    """Takes the key `unlocked` out of `data`. Raises ConfigError unless it lists keys that the experiment states."""
    keys = data.pop("unlocked", [])
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ConfigError(f"{origins[('unlocked',)]}: key 'unlocked' is {_short(keys)}: wants a list of dotted keys")
    for index, key in enumerate(keys):
        node: Any = data
        for part in key.split("."):
            if not isinstance(node, dict) or part not in node:
                where = origins[("unlocked", index)]
                raise ConfigError(f"{where}: key 'unlocked' names {_short(key)}, which this experiment does not state")
            node = node[part]
    return tuple(keys)


def _without(data: dict[str, Any], key: Sequence[str]) -> dict[str, Any]:
    """A copy without the value at `key`, a path of names; `data` itself stays as it is."""
    if key[0] not in data:  # within another unlocked key
        return data
    first, *rest = key
    if not rest:
        return {name: value for name, value in data.items() if name != first}
    return {**data, first: _without(data[first], rest)}


@dataclass
class _Read:
    """What reading a file and all that it includes adds up to; `included`: the keys at which `!include` stands.

    `stated` is that of `Resolved`.
    """

    data: Any = None
    origins: dict[Key, str] = field(default_factory=dict)
    spelled: dict[Key, str] = field(default_factory=dict)
    included: set[Key] = field(default_factory=set)
    stated: tuple[Set[Key], ...] = ()


def _resolve(path: Path, seen: tuple[Path, ...]) -> _Read:
    if path in seen:
        raise ConfigError(f"{path}: extends itself ({' -> '.join(p.name for p in (*seen, path))})")
    file = _Read()
    file.data = _read(path, file)
    if not isinstance(file.data, dict):
        raise ConfigError(f"{path}: holds a {type(file.data).__name__}, not a mapping of keys")
    file.stated = (frozenset(file.origins),)
    parent = file.data.pop("extends", None)
    if parent is None:
        return file
    base = _resolve(_parent(parent, path, file.origins[("extends",)]), (*seen, path))
    base.data.pop("locked", None)  # a lock holds one experiment, not those that start from it
    replaced: set[Key] = set()
    data = _merge(base.data, file.data, file.included, replaced)
    origins, spelled = (_without_keys(known, replaced) for known in (base.origins, base.spelled))
    return _Read(data, origins | file.origins, spelled | file.spelled, stated=base.stated + file.stated)


def _parent(parent: object, path: Path, where: str) -> Path:
    """The file that `path` extends: of that name beside it or in ops/configs, or of that path from there."""
    above = path.parent / f"experiment_{parent}.yaml"
    if isinstance(parent, str) and is_path(parent):
        above = _path(parent, path.parent)
    elif not os.path.isfile(above):
        above = CONFIGS / above.name
    if not isinstance(parent, str) or not os.path.isfile(above):
        raise ConfigError(f"{where}: key 'extends' is {parent!r}: {above} does not exist")
    return above


def _merge(
    base: dict[str, Any],
    over: dict[str, Any],
    included: Set[Key] = frozenset(),
    replaced: set[Key] | None = None,
    key: Key = (),
) -> dict[str, Any]:
    """`base` with the values of `over`: mappings merge, except those at the keys `included`. The keys at which a value
    of `base` is gone are added to `replaced`."""
    merged = dict(base)
    for name, value in over.items():
        here = (*key, name)
        if here not in included and isinstance(value, dict) and isinstance(merged.get(name), dict):
            merged[name] = _merge(merged[name], value, included, replaced, here)
            continue
        merged[name] = value
        if replaced is not None:
            replaced.add(here)
    return merged


def _without_keys(known: Mapping[Key, str], replaced: Set[Key]) -> dict[Key, str]:
    """Without what stood at and below the keys that were replaced."""
    return {key: said for key, said in known.items() if not any(key[:n] in replaced for n in range(1, len(key) + 1))}


def _read(path: Path, file: _Read, prefix: Key = (), seen: tuple[Path, ...] = ()) -> Any:
    if path in seen:
        raise ConfigError(f"{path}: includes itself")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {why_unreadable(error)}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: isn't UTF-8 (byte {error.start}). Save it as UTF-8") from None
    try:
        node = _compose(text, path)
        if node is None:
            raise ConfigError(f"{path}: is empty")
        return _construct(node, path, file, prefix, (*seen, path))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ConfigError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply to be an experiment") from None


def _compose(text: str, path: Path) -> yaml.Node | None:
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(f"{path}: more than {MOST_CHARACTERS:,} characters are no experiment")
    # Levels by indentation alone are few in so short a text: each takes a longer line than the one before.
    if len(re.findall(r"[\[{]|[-?:]\s", text)) < MOST_LEVELS:
        with suppress(yaml.YAMLError):  # Python's reader says more about what is wrong
            return yaml.compose(text, Loader=_FAST)
    return yaml.compose(text, Loader=yaml.SafeLoader)


def _construct(node: yaml.Node, path: Path, file: _Read, key: Key, seen: tuple[Path, ...]) -> Any:
    where = f"{path}:{node.start_mark.line + 1}"
    file.origins[key] = where
    if len(file.origins) > MOST_NODES:
        raise ConfigError(f"{where}: more than {MOST_NODES:,} values: aliases that repeat each other are no experiment")
    if node.tag == INCLUDE:
        return _include(node, path, file, key, seen)
    if not isinstance(node, yaml.ScalarNode) and node.tag not in PLAIN:
        raise ConfigError(f"{where}: tag {node.tag!r} is not used here; !include FILE is the only one")
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for name_node, value_node in node.value:
            name = name_node.value
            line = f"{path}:{name_node.start_mark.line + 1}"
            # YAML 1.1 reads No, Yes, 0 as other things than text; a key is the text that stands there.
            if not isinstance(name, str) or name == "<<":
                raise ConfigError(f"{line}: a key is a plain word; merge keys are not used here")
            if name in result:
                raise ConfigError(f"{line}: key {'.'.join(map(str, (*key, name)))!r} stands here twice")
            result[name] = _construct(value_node, path, file, (*key, name), seen)
            if value_node.tag != INCLUDE:
                file.origins[(*key, name)] = line
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_construct(child, path, file, (*key, index), seen) for index, child in enumerate(node.value)]
    if node.tag == TEXT:
        return node.value
    return _scalar(node, where, file, key)


def _include(node: yaml.Node, path: Path, file: _Read, key: Key, seen: tuple[Path, ...]) -> Any:
    where = file.origins[key]
    if not isinstance(node, yaml.ScalarNode):
        raise ConfigError(f"{where}: !include takes one file name")
    target = path.parent / os.path.expanduser(node.value)
    if not os.path.isfile(target):
        raise ConfigError(f"{where}: !include {_short(node.value)}: {target} does not exist")
    value = _read(target.resolve(), file, key, seen)
    file.included.add(key)
    file.origins[key] = f"{file.origins[key]} (included at {where})"
    return value


def _scalar(node: yaml.Node, where: str, file: _Read, key: Key) -> str | int | float | bool | None:
    try:
        value = SafeConstructor().construct_object(node)
    except (yaml.YAMLError, ValueError, KeyError):
        raise ConfigError(f"{where}: {_short(node.value)} can't be read as {node.tag!r}") from None
    if value is not None and not isinstance(value, str | int | float | bool):
        raise ConfigError(f"{where}: {node.value!r} reads as a {type(value).__name__}; put it in quotes")
    if isinstance(value, int | float) and ODD_NUMBER.fullmatch(node.value):
        raise ConfigError(f"{where}: YAML reads {node.value} as {value}; put it in quotes, or write {value}")
    file.spelled[key] = node.value
    return value


def _of_whole_values(resolved: Resolved, errors: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """pydantic's errors, those of a union's branches (a text or an integer) put together to one of the value."""
    problems: dict[Key, dict[str, Any]] = {}
    errors = list(errors)
    above = {error["loc"][:length] for error in errors for length in range(len(error["loc"]))}
    for error in errors:
        key: Key = error["loc"]
        if key[-1:] and key[-1] in BRANCHES and key not in resolved.origins and key[:-1] in resolved.origins:
            key = key[:-1]
        elif error["type"] == "too_short" and key in above:
            continue  # of a list whose items are wrong, each of which has an error of its own
        if key in problems:
            problems[key]["msg"] += " or " + error["msg"].removeprefix(WANTED)
            problems[key]["types"].append(error["type"])
        else:
            problems[key] = {**error, "loc": key, "types": [error["type"]]}
    return list(problems.values())


def _describe(resolved: Resolved, problem: dict[str, Any]) -> str:
    # What a validator of a whole block refuses may say by which keys it is reached from there.
    path: Key = getattr(problem.get("ctx", {}).get("error"), "path", ())
    loc: Key = (*problem["loc"], *path)
    value = problem["input"]
    for part in path:
        value = value[part]
    # The nearest key that stands in a file: pydantic also names union branches, and keys that are missing.
    origin = next((resolved.origins[loc[:n]] for n in range(len(loc), -1, -1) if loc[:n] in resolved.origins), "")
    key = ".".join(map(str, loc)) or "(top level)"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if problem["type"] == "missing":
        return f"{origin or resolved.path}: key {key!r} is missing"
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{origin}: key {key!r} is unknown here ({_short(problem['input'])}); take it out or mend its spelling"
    if problem["type"] in ("int_type", "float_type") and isinstance(problem["input"], str):
        message += ", not text (YAML takes 8 and 1.0e-3 as numbers, and '8' and 1e-3 as text)"
    if "string_type" in problem["types"] and (stands := resolved.spelled.get(loc)):
        message += f'; write "{stands}", in quotes'
        message += "" if isinstance(value, int | float) and not isinstance(value, bool) else _READ_AS[value]
    return f"{origin}: key {key!r} is {_short(value)}: {message}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def main(arguments: list[str]) -> int:
    if len(arguments) != 2 or arguments[0] != "lock":
        print("usage: python -m engine.config lock EXPERIMENT", file=sys.stderr)
        return 2
    try:
        resolved = load(experiment_path(arguments[1]))
        if not resolved.locked:
            raise ConfigError(f"{resolved.path}: has no `locked: true`; there is nothing to lock")
        print(f"{write_lock(resolved)}: {digest(resolved)}")
    except RetainError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
