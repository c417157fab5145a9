"""A layout's names of modules, to diffusers' and back.

A table has a module's name in the layout, and that in diffusers', `{i}` for a layer's number; a
tensor that is a module of its own, such as `head.modulation`, stands whole. What follows a
module's name, `weight` or `bias`, is the same in all layouts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

Names = Mapping[str, str]

# Where one of our parameters is found under diffusers' names: a regular expression for its dotted
# path, the key with `\\1` groups and `{i}` where layers that we keep stacked are numbered, and the
# name of a transform (`mapping.TRANSFORMS`).
Rule = tuple[str, str, str]

_LAYER = re.compile(r"(?<![\w])(blocks|block|layers|blk|transformer)\.(\d+)\.")


def renamed(name: str, names: Names) -> str | None:
    """What the table has for a tensor's name, or a module's; None where it has nothing."""
    layer = _LAYER.search(name)
    template = _LAYER.sub(r"\1.{i}.", name, count=1)
    module, dot, leaf = template.rpartition(".")
    found = names.get(template)
    if found is None and module in names:
        found = names[module] + dot + leaf
    return None if found is None else found.replace("{i}", layer[2] if layer else "{i}")


def inverted(names: Names) -> Names:
    """From diffusers' names to the layout's."""
    return {theirs: ours for ours, theirs in names.items()}
