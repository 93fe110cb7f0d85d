"""YAML as it is read here: plain data, in which a mapping has each key once."""

from typing import Any

import yaml


class TwiceError(yaml.YAMLError):
    """A mapping has a key twice, of which YAML's own reader takes the last without a word."""


def load_yaml(text: str) -> Any:
    """The data in a YAML text.

    Raises:
        TwiceError: A mapping has a key twice; the message has the key and its lines.
        yaml.YAMLError: The text is no YAML, or asks for more than plain data.
        ValueError: A value cannot be, such as the date 2025-13-01.
    """
    return yaml.load(text, _Loader)


class _Loader(yaml.SafeLoader):
    """Looks at mappings as they are written, before `<<` lays others under them."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line, name = key.start_mark.line + 1, (key.tag, key.value)
            if name in lines:
                where = f"line {line}" if lines[name] == line else f"lines {lines[name]} and {line}"
                raise TwiceError(f"{key.value} is given twice, in {where}; keep one")
            lines[name] = line
        return node
