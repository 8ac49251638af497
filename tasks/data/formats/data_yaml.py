"""YOLO's data.yaml: the classes of a data set, and where its images are."""

from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from tasks.data.formats.values import to_integer
from tasks.data.loading.images import one_line
from tasks.data.loading.storage import decode_text, is_file, is_folder, read_file

MAX_YAML_BYTES = 2**20
"""Of a data.yaml; one of a thousand classes has a fiftieth of it."""
UNREADABLE_YAML = (
    yaml.YAMLError,
    ValueError,
    RecursionError,
    TypeError,
    AttributeError,
    OverflowError,
    OSError,
)
"""What PyYAML raises over what is none: also its constructors of dates and numbers."""


class DataYamlLoader(yaml.SafeLoader):
    """Plain YAML without aliases of lists and mappings: some hundred bytes of those stand for more values than fit
    into any memory."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """A node; raises YAMLError for an alias of anything but a single value."""
        is_alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if is_alias and not isinstance(node, yaml.ScalarNode):
            raise yaml.YAMLError("an alias of a list or a mapping, which is not read: write it out")
        return node


DataYamlLoader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag in ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
"""Nothing and text alone: classes called no, 1.10 or 010 would otherwise be False, 1.1 and 8."""


def read_data_yaml(path: Path) -> dict[str, Any]:
    """The mapping in data.yaml with its "names" as a list by class number.

    Raises FileNotFoundError or ValueError, naming the file, where it is not there or not of that kind.
    """
    try:
        text = decode_text(read_file(path, MAX_YAML_BYTES), path)
        content = yaml.load(text, DataYamlLoader)  # a SafeLoader
    except FileNotFoundError:
        raise FileNotFoundError(
            f"there is no '{path}', which says where the images of a YOLO data set are and names its classes; give "
            "the folder that holds it with data.root=, or its name with data.file="
        ) from None
    except IsADirectoryError:
        raise ValueError(f"'{path}' is a folder; data.file= wants the data.yaml of a YOLO data set") from None
    except UNREADABLE_YAML as error:
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        raise ValueError(f"'{path}' is no YAML that can be read ({one_line(error)}); correct it") from None
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict):
        numbers = {to_integer(number): name for number, name in names.items()}
        if set(numbers) != set(range(len(names))):
            raise ValueError(f"'{path}' numbers its names {[*numbers][:8]}; wanted 0, 1, … without gaps")
        names = [numbers[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise ValueError(
            f"'{path}' has no 'names', a list of the classes in the order of their numbers; add it"
        )
    if not all(isinstance(name, str | int | float) for name in names):
        raise ValueError(f"'{path}' has 'names' that are no names; wanted a list of texts")
    names = [str(name) for name in names]
    if len(set(names)) < len(names):
        raise ValueError(f"'{path}' names a class twice: {', '.join(names)}; each needs a name of its own")
    return {**content, "names": names, "kpt_shape": key_points(content.get("kpt_shape"), path)}


def key_points(shape: Any, path: Path) -> int:
    """How many numbers the key points of an object are, by `kpt_shape`: 0 without any. ValueError for no such shape."""
    if shape is None:
        return 0
    sides = [to_integer(side) for side in shape] if isinstance(shape, list) else []
    if len(sides) != 2 or None in sides or not 1 <= (sides[0] or 0) <= 10_000 or sides[1] not in (2, 3):
        raise ValueError(
            f"'{path}' has kpt_shape {shape!s:.40}; wanted the number of key points and 2 or 3 numbers for each, such "
            "as [17, 3]"
        )
    return (sides[0] or 0) * (sides[1] or 0)


def find_place(base: Path, place: Any) -> Path:
    """Where a place that data.yaml names is. Roboflow writes `../train/images` for the folder train/images beside its
    data.yaml: where there is nothing, the path without its leading `..` counts."""
    text = str(place)
    path = base / text
    if is_folder(path) or is_file(path):
        return path
    for spelled in dict.fromkeys((text, text.replace("\\", "/"))):
        parts = [part for part in PurePosixPath(spelled).parts if part not in ("..", "/")]
        inside = base.joinpath(*parts)
        if parts and (is_folder(inside) or is_file(inside)):
            return inside
    return path


def find_base(root: Path, content: dict[str, Any]) -> Path:
    """What places in a data.yaml in `root` are relative to: its "path", where that is a folder here, else `root`."""
    named = content.get("path")
    return root / named if isinstance(named, str) and is_folder(root / named) else root
