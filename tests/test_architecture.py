"""The shape of the code: layers, each library in its place, no stray tasks, no broad excepts (design 5, law 10)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "fluxedge"

# Rows of the design, lowest first. A part is a module or a folder below fluxedge/. Imports go down only; inside a row
# parts do not see each other, except where INSIDE lists it.
ROWS: tuple[tuple[str, ...], ...] = (
    ("problems", "clock", "columns", "model", "latest", "permissions", "tasks", "journal", "intake"),
    ("spi", "mqtt_terms"),
    ("config", "schedule", "orders"),
    ("log", "protocols", "channels", "mqtt"),
    ("apply", "api", "uplinks", "poller", "pipeline", "commands", "verify", "simulate"),
    ("app", "service", "cli"),
)
INSIDE: dict[str, set[str]] = {
    "model": {"columns"},
    "latest": {"columns", "model"},
    "intake": {"model"},
    "permissions": {"problems"},
    "commands": {"pipeline"},  # intents and results enter the log by the pipeline's door
    "service": {"app"},
    "cli": {"app", "service"},
}

# Where a third-party library may be imported (paths below fluxedge/; a folder ends with /).
PLACES: dict[str, tuple[str, ...]] = {
    "aiohttp": ("api/", "cli/online.py"),
    "aiosqlite": ("log/",),
    "amqtt": ("cli/demo",),
    "click": ("cli/",),
    "gmqtt": ("mqtt.py",),
    "msgspec": ("",),  # everywhere: frozen structs and encodings
    "psutil": ("protocols/host/", "api/"),
    "pymodbus": ("protocols/modbus/", "simulate/"),
    "rich": ("cli/",),
    "serial": ("channels/serial.py", "simulate/"),
    "serial_asyncio_fast": ("channels/serial.py",),
    "sqlite3": ("log/", "cli/version.py"),
    "systemd": ("journal.py",),
    "uvloop": ("cli/",),
    "watchfiles": ("config/watch.py",),
}
STANDARD_SERVICES = {"sqlite3"}  # of the standard library, but with a place all the same

# `except Exception`: one device's bug (poller), one uplink's bug (forward loop), foreign code.
BROAD = {"poller.py": 1, "uplinks/forward.py": 1}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted module) of every import in a file, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            module = node.module or ""
            if module == "fluxedge":
                yield from ((node.lineno, f"fluxedge.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, module


def row_of(name: str) -> int:
    return next(number for number, row in enumerate(ROWS) if name in row)


def layer_faults(importer: str, imported: str) -> str:
    """Return what is wrong with one import between parts; empty = nothing."""
    if importer == imported or imported == "__version__":
        return ""
    above, below = row_of(importer), row_of(imported)
    if below > above:
        return f"{importer} imports {imported}, which is above it"
    if below == above and imported not in INSIDE.get(importer, set()):
        return f"{importer} imports {imported} of its own row"
    return ""


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down_only(path: Path) -> None:
    if part(path) == "__init__":
        return
    found = []
    for line, module in imports(path):
        if module.startswith("fluxedge."):
            fault = layer_faults(part(path), module.split(".")[1])
            if fault:
                found.append(f"{path}:{line}: {fault}")
    assert not found, "\n".join(found)


def test_every_module_has_a_row() -> None:
    listed = {name for row in ROWS for name in row}
    assert {part(path) for path in modules()} - {"__init__"} == listed


def test_the_layer_rule_finds_upward_and_sideways_imports() -> None:
    assert layer_faults("log", "pipeline")
    assert layer_faults("log", "channels")
    assert layer_faults("protocols", "channels")
    assert layer_faults("spi", "config")
    assert not layer_faults("pipeline", "log")
    assert not layer_faults("commands", "pipeline")


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_each_library_has_its_place(path: Path) -> None:
    import sys

    name = str(path.relative_to(PACKAGE))
    for line, module in imports(path):
        top = module.split(".")[0]
        if top == "fluxedge" or (top in sys.stdlib_module_names and top not in STANDARD_SERVICES):
            continue
        assert top in PLACES, f"{path}:{line}: {top} has no place; add it to PLACES with a reason"
        assert name.startswith(PLACES[top]), f"{path}:{line}: {top} may be imported in {PLACES[top]} only"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_tasks_are_made_by_their_owner_only(path: Path) -> None:
    if path.name == "tasks.py":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if node.func.attr != "create_task":
            continue
        owner = node.func.value
        in_group = isinstance(owner, ast.Name) and owner.id == "group"  # asyncio.TaskGroup: owned by its block
        assert in_group, f"{path}:{node.lineno}: create_task outside the owner"


def test_broad_excepts_stand_around_foreign_code_only() -> None:
    found: dict[str, int] = {}
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler) and (
                node.type is None or (isinstance(node.type, ast.Name) and node.type.id == "Exception")
            ):
                name = str(path.relative_to(PACKAGE))
                found[name] = found.get(name, 0) + 1
    assert found == BROAD


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_readable(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= 450, f"{path} has {len(lines)} lines"
    assert ast.get_docstring(ast.parse(path.read_text())), f"{path} does not say what is in it"


def test_names_say_what_is_in_them() -> None:
    for path in modules():
        for word in ("utils", "common", "helpers", "manager", "base", "misc"):
            assert path.stem != word, f"{path}: a name that says nothing"
