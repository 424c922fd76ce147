"""The shape of the code: layers, each library in its place, no stray tasks, no broad excepts (design 5, law 10)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "fluxedge"
TESTS = ROOT / "tests" / "fluxedge"

# Rows of the design, lowest first. A part is a module or a folder below fluxedge/. Imports go down only; inside a row
# parts do not see each other, except where INSIDE lists it.
ROWS: tuple[tuple[str, ...], ...] = (
    ("problems", "clock", "block_device", "columns", "model", "latest", "permissions", "tasks", "journal", "intake"),
    ("spi", "mqtt_terms", "refusals"),
    ("config", "schedule", "orders", "mqtt_client"),
    ("log", "protocols", "channels", "mqtt", "verdicts"),
    (
        "apply",
        "api",
        "uplinks",
        "poller",
        "pipeline",
        "commands",
        "verify",
        "simulate",
        "clock_watch",
        "compaction",
        "housekeeping",
        "doctor",
    ),
    ("app", "service", "cli"),
)
INSIDE: dict[str, set[str]] = {
    "model": {"columns"},
    "latest": {"columns", "model"},
    "intake": {"model"},
    "permissions": {"intake", "problems"},  # who may do what, and how often
    "pipeline": {"housekeeping"},  # a task of its own beside the road's
    "commands": {"pipeline"},  # intents and results enter the log by the pipeline's door
    "doctor": {"apply", "uplinks"},  # the loader's trial, and the TLS settings of a broker; it builds nothing
    "service": {"app"},
    "cli": {"app", "service"},
}

# Where a third-party library may be imported (paths below fluxedge/; a folder ends with /).
PLACES: dict[str, tuple[str, ...]] = {
    "aiohttp": ("api/", "cli/online.py"),
    "aiosqlite": ("log/",),
    "amqtt": ("cli/demo",),
    "click": ("cli/",),
    "gmqtt": ("mqtt_client.py",),
    "msgspec": ("",),  # everywhere: frozen structs and encodings
    "psutil": ("protocols/host/", "api/"),
    "pymodbus": ("protocols/modbus/", "simulate/"),
    "rich": ("cli/",),
    "serial": ("channels/serial.py", "simulate/"),
    "serial_asyncio_fast": ("channels/serial.py",),
    "sqlite3": ("log/", "cli/version.py", "doctor/machine.py"),  # of the latter two, its version
    "systemd": ("journal.py",),
    "uvloop": ("cli/",),
    "watchfiles": ("config/watch.py",),
}
STANDARD_SERVICES = {"sqlite3"}  # of the standard library, but with a place all the same

# `except Exception`: one device's bug (poller), one uplink's bug (forward loop), foreign code; a reload (service),
# where files of others are read while devices are being polled.
BROAD = {"poller.py": 2, "service.py": 1, "tasks.py": 1, "uplinks/forward.py": 1}


# Who starts tasks. `group` is an asyncio.TaskGroup: its block owns them. Everything else is spawned (tasks.py).
STARTS = {"create_task", "ensure_future", "gather"}
STARTERS: dict[tuple[str, str], str] = {
    ("tasks.py", "asyncio.get_running_loop().create_task"): "the owner itself",
    ("pipeline.py", "group.create_task"): "housekeeping, which lives as long as the road",
    ("uplinks/forward.py", "group.create_task"): "what ends a session with its uplink",
    ("cli/connect.py", "asyncio.gather"): "one verb, which waits for every trial",
}

MOST_LINES = 400  # of a file
MOST_FUNCTION_LINES = 45

# Modules without a test file of their own, and what holds them. Whoever adds one writes its test instead.
TESTED_ELSEWHERE: dict[str, str] = {
    "api/answers": "shapes only: api/test_openapi, api/test_handlers",
    "api/families": "one table: api/test_metrics, tests/test_documentation",
    "api/families_log": "part of the table in api/families",
    "api/families_uplinks": "part of the table in api/families",
    "api/families_wires": "part of the table in api/families",
    "api/routes": "shapes only: api/test_openapi, api/test_server",
    "api/table": "one table: api/test_openapi, tests/test_documentation",
    "api/view": "interfaces only",
    "cli/queue_table": "one table of cli/test_queue and cli/test_status",
    "doctor/facts": "shapes only: doctor/test_checks, doctor/test_gather",
    "mqtt_client": "test_mqtt: against a scripted broker, with the session over it",
    "spi": "interfaces only",
}
ASPECTS = {
    "test_poller_channel": "test_poller",
    "test_volatile_walk": "test_volatile",
    "test_round_trip": "test_restoring",
    "test_recovery": "test_salvage",
    "test_passing_trouble": "test_salvage",
    "test_bad_days": "test_store",
}  # a second test file of a module -> the first


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


def starts(text: str) -> list[str]:
    """Return what starts tasks in a module: "group.create_task"; also where it is only named, not called."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and node.attr in STARTS:
            found.append(ast.unparse(node))
        elif isinstance(node, ast.ImportFrom) and node.module == "asyncio":
            found += [f"from asyncio import {alias.name}" for alias in node.names if alias.name in STARTS]
    return found


def test_tasks_are_started_by_their_owner_only() -> None:
    found = {(str(path.relative_to(PACKAGE)), how) for path in modules() for how in starts(path.read_text())}
    assert found == set(STARTERS)


def test_every_way_to_start_a_task_is_seen() -> None:
    assert starts("asyncio.ensure_future(f())") == ["asyncio.ensure_future"]
    assert starts("self._loop.create_task(f())") == ["self._loop.create_task"]
    assert starts("start = asyncio.create_task") == ["asyncio.create_task"]
    assert starts("from asyncio import gather, sleep") == ["from asyncio import gather"]
    assert starts("spawn(f(), 'name')") == []


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
    assert len(lines) <= MOST_LINES, f"{path} has {len(lines)} lines"
    assert ast.get_docstring(ast.parse(path.read_text())), f"{path} does not say what is in it"


def long_functions(text: str) -> list[str]:
    """Return the functions that are too long to be read at once, with their lines."""
    functions = (n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    lines = ((node.name, (node.end_lineno or node.lineno) - node.lineno + 1) for node in functions)
    return [f"{name}: {count}" for name, count in lines if count > MOST_FUNCTION_LINES]


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_functions_stay_readable(path: Path) -> None:
    assert long_functions(path.read_text()) == []


def test_a_long_function_is_seen() -> None:
    for count, found in ((MOST_FUNCTION_LINES - 1, []), (MOST_FUNCTION_LINES, [f"f: {MOST_FUNCTION_LINES + 1}"])):
        assert long_functions("async def f():\n" + "    pass\n" * count) == found


def test_every_module_has_a_test_file_and_every_test_file_a_module() -> None:
    ours = {str(path.relative_to(PACKAGE).with_suffix("")) for path in modules() if path.name != "__init__.py"}
    tests = [path.relative_to(TESTS).with_suffix("") for path in TESTS.rglob("test_*.py")]
    mirrored = {str(path.with_name(ASPECTS.get(path.name, path.name).removeprefix("test_"))) for path in tests}
    assert ours - mirrored == set(TESTED_ELSEWHERE)
    assert mirrored - ours == set()


def test_names_say_what_is_in_them() -> None:
    for path in modules():
        for word in ("utils", "common", "helpers", "manager", "base", "misc"):
            assert path.stem != word, f"{path}: a name that says nothing"
