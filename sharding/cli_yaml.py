"""What is wrong with a configuration file that YAML itself lets pass."""

from collections.abc import Collection

import yaml


def check_sections(text: str, sections: Collection[str]) -> None:
    """Check the text of a file; what is no YAML at all is left to its reader.

    Of a key that is there twice YAML takes the last, and a section whose keys are comments is null.

    Raises:
        TypeError: the file is empty, has a key twice, or one of `sections` holds no keys.
    """
    try:
        root = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError:
        return
    if root is None:
        raise TypeError("nothing in it; give a file with sections, or leave it out")
    if isinstance(root, yaml.MappingNode):
        for key, value in root.value:
            # Text would be the name of a file with the section.
            if key.value in sections and isinstance(value, yaml.ScalarNode) and not value.tag.endswith(":str"):
                line = key.start_mark.line + 1
                raise TypeError(f"line {line}: {key.value}: a section without keys; give one, or leave the section out")
    _check_twice(root, ())


def _check_twice(node: yaml.Node, above: tuple[yaml.Node, ...]) -> None:
    if isinstance(node, yaml.ScalarNode) or node in above:  # an alias may lead back
        return
    known = set()
    for child in node.value:
        key, value = child if isinstance(child, tuple) else (None, child)
        if key is not None and isinstance(key.value, str):
            if key.value in known:
                raise TypeError(f"line {key.start_mark.line + 1}: {key.value} is there twice; keep one")
            known.add(key.value)
        _check_twice(value, (*above, node))
