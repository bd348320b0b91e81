"""The rooms of the house: an import never goes up, and a law knows no instrument."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import lawful

HOUSE = Path(lawful.__file__).parent
FLOORS = (
    {"estimators", "theory", "symmetry"}, {"record"}, {"methods", "schedule"}, {"instruments"},
    {"laws"}, {"observe"}, {"report", "forecast", "callbacks", "script", "inspect"},
    {"lab", "watch"}, {"challenge"}, {"cli"},
)  # fmt: skip
FLOOR = {room: i for i, rooms in enumerate(FLOORS) for room in rooms}
HIDDEN = {("laws", "instruments"), ("report", "instruments"), ("report", "lab")}
FILES = [f for f in sorted(HOUSE.rglob("*.py")) if f.parent != HOUSE or f.stem in FLOOR]


def imported(file: Path) -> set[str]:
    """The rooms that a file imports, wherever in it the import stands."""
    package = ("lawful", *file.relative_to(HOUSE).parts[:-1])
    rooms = set()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    # What `python -m` does with a module is the shell's face, not the room.
    tree.body = [n for n in tree.body if "__main__" not in ast.unparse(n)[:30]]
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = package[: len(package) - node.level + 1]
        path = [*base, *(node.module or "").split(".")]
        names = [[*path, alias.name] if not node.module else path for alias in node.names]
        rooms |= {name[1] for name in names if len(name) > 1 and name[1] in FLOOR}
    return rooms


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(HOUSE)))
def test_no_import_goes_up(file: Path) -> None:
    room = file.relative_to(HOUSE).parts[0].removesuffix(".py")
    for other in imported(file) - {room}:
        assert FLOOR[other] <= FLOOR[room], f"{room} imports {other}, which lies above it"
        assert (room, other) not in HIDDEN, f"{room} knows of {other}"


def test_every_room_has_its_floor() -> None:
    rooms = {p.name for p in HOUSE.iterdir() if (p / "__init__.py").exists()}
    assert rooms <= set(FLOOR)
