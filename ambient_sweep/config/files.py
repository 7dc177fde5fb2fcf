"""Configs from files, overrides and presets, and back to files."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ambient_sweep.config.presets import expand_preset
from ambient_sweep.config.sections import Config, Section
from ambient_sweep.errors import UserError
from ambient_sweep.storage import write_atomic

# workers run in another directory
PATH_KEYS = (
    "data.path", "evaluation.path", "evaluation.inception_weights", "evaluation.weights_folder", "evaluation.encoder_file",
)  # fmt: skip


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested or dotted keys to dotted ones. Raises UserError where one key is given twice."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        items = flatten(value, f"{key}.") if isinstance(value, Mapping) else {key: value}
        for inner, inner_value in items.items():
            if inner in flat:
                raise UserError(f"{inner}: given twice; keep one")
            flat[inner] = inner_value
    return flat


def dump(config: Config) -> dict[str, Any]:
    """All values under their dotted keys, as plain JSON types."""
    return flatten(config.model_dump(mode="json"))


def knobs() -> dict[str, tuple[Any, Any]]:
    """Every dotted key with its pydantic field and its default, in order."""
    return _knobs(Config)


def _knobs(section: type[Section], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    result: dict[str, tuple[Any, Any]] = {}
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            result |= _knobs(field.annotation, f"{prefix}{name}.")
        else:
            result[prefix + name] = (field, field.default)
    return result


def check_keys(keys: Iterable[str], where: str = "config") -> None:
    """Raises UserError for the first key that is not a knob, with the nearest that is."""
    known = knobs()
    for key in keys:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "`ambient-sweep knobs` lists the keys"
            raise UserError(f"{where}: unknown key {key!r}; {hint}")


def overlay(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """The dotted keys of `layers`, later ones winning; in a layer, the values of its preset lie under its own keys."""
    values: dict[str, Any] = {}
    for layer in layers:
        values.update(expand_preset(flatten(layer)))
    return values


def build_config(*layers: Mapping[str, Any], where: str = "config") -> Config:
    """The config of the defaults overlaid by `layers`, later ones winning.

    Raises UserError, one line that names the key, for unknown keys, values out of range and contradictions.
    """
    values = overlay(*layers)
    check_keys(values, where)
    fields = knobs()
    nested: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, bool) and fields[key][0].annotation is not bool:
            raise UserError(
                f"{where}: {key}: {str(value).lower()} is neither a number nor a word; quote it if it is one"
            )
        *sections, name = key.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    try:
        return Config.model_validate(nested)
    except ValidationError as error:
        raise UserError(f"{where}: {describe(error)}") from None


def describe(error: ValidationError) -> str:
    """A pydantic error as one line: key, complaint, value."""
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "too_short":
            message = f"expected at least {item['ctx']['min_length']} value"
        lines.append(f"{key}: {message[0].lower()}{message[1:]}, not {item['input']!r}" if key else message)
    return "; ".join(lines)


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """`key=value` words to a mapping, values read as YAML. Raises UserError for a word without '='."""
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise UserError(f"{pair!r}: expected key=value, as in observed.sigma=0.3")
        try:
            values[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"{key}: cannot read the value {text!r}; quote it") from None
    return values


class _UniqueKeys(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, which YAML would let win in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if str(key) in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(str(key))
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file whose top level is a mapping. Raises UserError that names the file, line and complaint."""
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; give the YAML file of a sweep or config") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not text in UTF-8; give a YAML file") from None
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}:" if error.problem_mark else ""
        raise UserError(f"{path}:{line} {error.problem}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected a mapping of keys to values")
    return tree


def load_config(path: Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """The config in a YAML file, overlaid by `overrides`; relative paths in it become absolute."""
    layers = [absolute_paths(flatten(layer)) for layer in (read_yaml(path), overrides or {})]
    if any(key.partition(".")[0] == "space" for layer in layers for key in layer):
        raise UserError(f"{path}: is a sweep, not the config of one run; use `ambient-sweep run`")
    return build_config(*layers, where=str(path))


def absolute_paths(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: str(Path(value).expanduser().absolute()) if key in PATH_KEYS and isinstance(value, str) else value
        for key, value in values.items()
    }


def write_config(config: Config, path: Path, header: str = "") -> None:
    """All values as YAML that `load_config` reads back to an equal config; atomically. Raises OSError that names `path`."""
    comment = "".join(f"# {line}\n" for line in header.splitlines())
    write_atomic(path, (comment + yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)).encode())
