"""YAML files, with every scalar but null as the text that was written: its key says whether it is a number (sections.py).

YAML 1.1, as PyYAML reads it, takes 1e-3 for a word, 010 for 8, 1:46:40 for 6400, and a run named 2024 for a number.
"""

import re
from collections.abc import Container, Mapping
from typing import Any

import yaml

from ambient_sweep.errors import UserError

MAP, SEQ, NULL, MERGE, STR, *NUMBERS = (
    f"tag:yaml.org,2002:{name}" for name in ("map", "seq", "null", "merge", "str", "int", "float", "bool")
)


def load(text: str | bytes) -> Any:
    """The document in `text` (bytes: UTF-8, or UTF-16 with a byte order mark); None if it is empty.

    Raises yaml.YAMLError, also for a key given twice.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        return None if node is None else loader.construct_object(node, deep=True)
    except (RecursionError, ValueError, OverflowError):
        problem = "nested too deeply, or an escape code that is no character"
        raise yaml.MarkedYAMLError(None, None, problem, loader.get_mark()) from None


def flatten(tree: Mapping[str, Any], prefix: str = "", within: Container[str] | None = None) -> dict[str, Any]:
    """Nested or dotted keys, or those below the sections `within` alone, to dotted ones; empty mappings stay.

    Raises UserError where one key is given twice.
    """
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        nested = isinstance(value, Mapping) and value and (within is None or key in within)
        items = flatten(value, f"{key}.", within) if nested else {key: value}
        for inner, inner_value in items.items():
            if inner in flat:
                raise UserError(f"{inner}: given twice; keep one")
            flat[inner] = inner_value
    return flat


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping's keys are given once, dotted or nested, and win over those that `<<` merges in."""
        if not isinstance(node, yaml.MappingNode):  # a list with the tag of a mapping
            return dict(super().construct_mapping(node))
        own: set[str] = set()
        given: set[str] = set()
        for name_node, value_node in node.value:
            if isinstance(name_node, yaml.ScalarNode):
                if name_node.value.isdigit() and value_node.value == "":
                    problem = (
                        f"{name_node.value!r} follows a comma, which ends a value in braces; write 20,000 as 20000"
                    )
                    raise yaml.MarkedYAMLError(None, None, problem, name_node.start_mark)
                names = {name_node.value}
                if name_node.tag != MERGE:
                    name_node.tag = STR
                    own |= names
                    names |= flatten({name_node.value: self.construct_object(value_node, deep=True)}).keys()
                for twice in sorted(names & given):
                    raise yaml.MarkedYAMLError(
                        None, None, f"key {twice!r} is given twice; keep one", name_node.start_mark
                    )
                given |= names
        values: dict[Any, Any] = super().construct_mapping(node, deep=True)
        merged = {name: value for name, value in values.items() if name not in own}
        if given & flatten(merged).keys():
            merged = {name: value for name, value in flatten(merged).items() if name not in given}
        return merged | {name: value for name, value in values.items() if name in own}


_Loader.yaml_implicit_resolvers = {
    None: [(NULL, re.compile(r"(~|null|Null|NULL|)\Z")), (MERGE, re.compile(r"<<\Z"))],
}
_Loader.yaml_constructors = {
    tag: yaml.SafeLoader.yaml_constructors[STR if tag in NUMBERS else tag]
    for tag in (MAP, SEQ, NULL, STR, *NUMBERS, None)
}
