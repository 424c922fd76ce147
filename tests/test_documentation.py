"""What is documented exists, and what exists is documented where it belongs; samples load; links lead somewhere."""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Iterator
from pathlib import Path

import click
import jsonschema
import msgspec
import pytest

from fluxedge import apply
from fluxedge.api.errors import STATUS
from fluxedge.api.families import FAMILIES
from fluxedge.api.table import ROUTES
from fluxedge.cli import main as command_line
from fluxedge.commands import Request, Result, State
from fluxedge.config import structs
from fluxedge.config.load import Layout, load
from fluxedge.config.quantities import Bytes, Seconds
from fluxedge.problems import CODES
from fluxedge.protocols.host.metrics import METRICS
from tests.test_architecture import ROWS

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
READMES = (ROOT / "README.md", ROOT / "README.zh-CN.md")
PAGES = (*READMES, ROOT / "ARCHITECTURE.md", ROOT / "drivers" / "README.md", *sorted(DOCS.rglob("*.md")))

# (page, heading, struct): where each table of the configuration files is documented.
TABLES: tuple[tuple[str, str, type[msgspec.Struct]], ...] = (
    ("configuration.md", "`[gateway]`", structs.GatewayCfg),
    ("configuration.md", "`[log]`", structs.LogCfg),
    ("configuration.md", "`[api]`", structs.ApiCfg),
    ("configuration.md", "`[uplinks.ID]`", structs.UplinkCfg),
    ("configuration.md", "`[uplinks.ID.topics]`", structs.TopicsCfg),
    ("configuration.md", "`[uplinks.ID.tls]`", structs.TlsCfg),
    ("configuration.md", "`[channels.ID]`", structs.ChannelCfg),
    ("configuration.md", "`[devices.ID]`", structs.DeviceCfg),
    ("configuration.md", "`[devices.ID.points.NAME]`", structs.PointOverrideCfg),
    ("drivers.md", "The file", structs.DriverCfg),
    ("drivers.md", "`[groups.NAME]`", structs.GroupCfg),
    ("drivers.md", "Keys that every point has", structs.PointCfg),
    ("drivers.md", "Modbus / Points", structs.ModbusPointCfg),
    ("drivers.md", "Modbus / Options", structs.ModbusOptionsCfg),
    ("drivers.md", "Host / Points", structs.HostPointCfg),
    ("drivers.md", "Host / Options", structs.HostOptionsCfg),
    ("drivers.md", "Simulator / Points", structs.SimulatorPointCfg),
    ("drivers.md", "Simulator / Options", structs.SimulatorOptionsCfg),
)
SET_BY_LOADER = {structs.DriverCfg: {"id"}}
NOT_A_TABLE_OF_A_FILE = {structs.Table}

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def sections(page: Path) -> dict[str, str]:
    """Return the text behind each heading up to the next one; a third level is also known as "Second / Third"."""
    plain = FENCE.sub("", text_of(page))
    parts = re.split(r"^(#{1,4}) (.+)$", plain, flags=re.MULTILINE)
    found: dict[str, str] = {}
    second = ""
    for marks, title, body in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        if len(marks) == 2:
            second = title
        found.setdefault(title, body)
        if len(marks) == 3:
            found[f"{second} / {title}"] = body
    return found


def rows(section: str) -> dict[str, list[str]]:
    """Return first cell -> further cells of the tables in a section, for rows that begin with one `code`."""
    found = {}
    for line in section.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells and (name := re.fullmatch(r"`([^`]+)`", cells[0])):
            found[name[1]] = cells[1:]
    return found


# --- configuration ----------------------------------------------------------------------------------------------------


def own_fields(cls: type[msgspec.Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    """Return the keys of a table; those that every point has are documented once."""
    shared = set()
    if issubclass(cls, structs.PointCfg) and cls is not structs.PointCfg:
        shared = {field.encode_name for field in msgspec.structs.fields(structs.PointCfg)}
    return {
        field.encode_name: field
        for field in msgspec.structs.fields(cls)
        if field.encode_name not in shared | SET_BY_LOADER.get(cls, set())
    }


def default_text(field: msgspec.structs.FieldInfo) -> str | None:
    """Return the default as the page shows it between backquotes; None where it cannot or need not."""
    value = field.default
    if value is msgspec.NODEFAULT and field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    if isinstance(value, Seconds | Bytes):
        return f'"{value}"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list):
        return "[" + ", ".join(f'"{item}"' for item in value) + "]"
    return f"{value:g}" if isinstance(value, int | float) else None


def same_default(shown: str, wanted: str) -> bool:
    """Compare defaults; durations and sizes by what they mean: "1m" and "60s" are equal."""
    if shown == wanted:
        return True
    for quantity in (Seconds, Bytes):
        try:
            return quantity.parse(shown.strip('"')) == quantity.parse(wanted.strip('"'))
        except ValueError:
            continue
    return False


@pytest.mark.parametrize(("page", "heading", "cls"), TABLES, ids=lambda value: getattr(value, "__name__", None))
def test_every_option_is_documented_with_its_default(page: str, heading: str, cls: type[msgspec.Struct]) -> None:
    documented = rows(sections(DOCS / page)[heading])
    fields = own_fields(cls)
    assert set(documented) == set(fields)
    for key, field in fields.items():
        shown = documented[key][1]
        if field.required:
            assert shown == "required", f"{heading} {key}"
        elif shown.startswith("`"):
            wanted = default_text(field)
            assert wanted is None or same_default(shown.strip("`"), wanted), f"{heading} {key}: {shown}, not {wanted}"


def test_every_table_of_the_files_has_its_section() -> None:
    known = {cls for _, _, cls in TABLES} | NOT_A_TABLE_OF_A_FILE
    tables = {
        value
        for value in vars(structs).values()
        if isinstance(value, type) and issubclass(value, structs.Table) and value.__module__ == structs.__name__
    }
    assert tables == known


@pytest.mark.parametrize("name", typing.get_args(structs.ModbusType))
def test_every_modbus_type_is_documented(name: str) -> None:
    assert f"`{name}`" in sections(DOCS / "drivers.md")["Modbus / Points"]


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_of_the_machine_is_documented(name: str) -> None:
    assert f"`{name}`" in sections(DOCS / "drivers.md")["Host / Points"]


@pytest.mark.parametrize("path", sorted((ROOT / "drivers").glob("*.toml")), ids=lambda path: path.stem)
def test_every_driver_file_is_listed(path: Path) -> None:
    assert path.stem in rows(sections(ROOT / "drivers" / "README.md")["Shipped drivers"])


def test_no_driver_is_listed_that_does_not_exist() -> None:
    listed = rows(sections(ROOT / "drivers" / "README.md")["Shipped drivers"])
    assert set(listed) == {path.stem for path in (ROOT / "drivers").glob("*.toml")}


# --- problems, events -------------------------------------------------------------------------------------------------


def problem_headings() -> dict[str, bool]:
    """Return code -> is it marked as reserved."""
    found = re.findall(r"^### `([a-z-]+)`( \(reserved\))?$", text_of(DOCS / "problems.md"), re.MULTILINE)
    return {code: bool(reserved) for code, reserved in found}


def sources() -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / "fluxedge").rglob("*.py")):
        yield str(path.relative_to(ROOT / "fluxedge")), text_of(path)


def test_every_problem_code_is_explained() -> None:
    assert list(problem_headings()) != []
    assert set(problem_headings()) == set(CODES)


@pytest.mark.parametrize("code", CODES)
def test_every_problem_says_what_it_means(code: str) -> None:
    section = next(body for title, body in sections(DOCS / "problems.md").items() if title.startswith(f"`{code}`"))
    assert "**Means**" in section


def test_reserved_are_exactly_the_codes_that_nothing_raises() -> None:
    code = "\n".join(text for name, text in sources() if name != "problems.py")
    assert {name for name, reserved in problem_headings().items() if reserved} == {
        name for name in CODES if f'"{name}"' not in code
    }


def submitted_kinds() -> set[str]:
    """Return the kinds of events that the code submits."""
    found: set[str] = set()
    for name, text in sources():
        if name == "service.py":  # its _tell writes to the journal
            continue
        found |= set(re.findall(r'\b_?submit\(\s*"([a-z-]+)"', text))
        if name in ("housekeeping.py", "poller.py", "verdicts.py", "uplinks/forward.py"):
            found |= set(re.findall(r'\b_tell\(\s*"([a-z-]+)"', text))
    return found


def test_every_kind_of_event_is_documented() -> None:
    documented = set(rows(sections(DOCS / "mqtt.md")["Events"]))
    assert len(documented) > 5
    assert documented == submitted_kinds()


@pytest.mark.parametrize("shape", [Request, Result])
def test_every_field_of_a_command_is_documented(shape: type[msgspec.Struct]) -> None:
    section = sections(DOCS / "mqtt.md")["Commands"] + "".join(
        body for _, body in FENCE.findall(text_of(DOCS / "mqtt.md")) if '"state": "done"' in body
    )
    for field in msgspec.structs.fields(shape):
        assert f"`{field.encode_name}`" in section or f'"{field.encode_name}":' in section


def test_every_state_of_a_command_is_documented() -> None:
    assert set(typing.get_args(State)) <= set(rows(sections(DOCS / "mqtt.md")["Commands"]))


# --- API, metrics -----------------------------------------------------------------------------------------------------


def test_every_route_is_documented_with_its_action() -> None:
    documented = {name: cells[0] for name, cells in rows(sections(DOCS / "api.md")["Routes"]).items()}
    assert documented == {route.name: route.action for route in ROUTES}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_every_query_parameter_is_documented(route: typing.Any) -> None:
    words = " ".join(rows(sections(DOCS / "api.md")["Routes"])[route.name])
    for param in route.params:
        if param.where == "query":
            assert f"`?{param.name}=" in words or f"`{param.name}`" in words, param.name


def test_every_error_of_the_api_is_documented_with_its_status() -> None:
    documented = {code: int(cells[0]) for code, cells in rows(sections(DOCS / "api.md")["Errors"]).items()}
    assert documented == {code: status for code, (status, _) in STATUS.items()}


def test_every_metric_is_documented_with_its_kind() -> None:
    found = re.findall(r"^\| `(fluxedge_?\w*)`[^|]*\| (\w+) \|", text_of(DOCS / "metrics.md"), re.MULTILINE)
    assert dict(found) == {family.sample_name: family.kind for family in FAMILIES}
    assert len(found) == len(FAMILIES)


# --- command line -----------------------------------------------------------------------------------------------------


def commands() -> dict[str, click.Command]:
    """Return "drivers ls" -> command, for every command that does something."""
    found: dict[str, click.Command] = {}
    context = click.Context(command_line.main)

    def walk(prefix: str, command: click.Command) -> None:
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                assert inner is not None, f"{prefix} {name}"
                walk(f"{prefix} {name}".strip(), inner)
        else:
            found[prefix] = command

    walk("", command_line.main)
    return found


def verb_sections() -> dict[str, str]:
    found = sections(DOCS / "cli.md")
    verbs = {title: re.fullmatch(r"`fluxedge ([a-z ]+)`", title) for title in found}
    return {match[1]: found[title] for title, match in verbs.items() if match}


def test_every_verb_has_its_section_and_no_other() -> None:
    assert set(verb_sections()) == set(commands())


def test_every_option_of_every_verb_is_documented() -> None:
    missing = []
    for verb, command in commands().items():
        section = verb_sections()[verb]
        for param in command.params:
            if isinstance(param, click.Option):
                missing += [f"{verb} {name}" for name in param.opts if f"`{name}`" not in section]
    assert missing == []


def test_no_option_is_documented_that_does_not_exist() -> None:
    invented = []
    for verb, section in verb_sections().items():
        known = {name for param in commands()[verb].params for name in param.opts}
        invented += [f"{verb} {name}" for name in re.findall(r"`(--?[a-z-]+)`", section) if name not in known]
    assert invented == []


def test_exit_codes_are_those_of_the_code() -> None:
    listed = re.findall(r"^\| (\d+) \|", sections(DOCS / "cli.md")["What is the same everywhere"], re.MULTILINE)
    codes = ("OK", "FAILED", "USAGE", "NOT_RUNNING", "NOT_PERMITTED", "UNSURE", "BAD_CONFIG")
    assert [int(code) for code in listed] == [getattr(command_line, name) for name in codes]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_name_only_verbs_and_make_targets_that_exist(page: Path) -> None:
    text = text_of(page)
    blocks = "\n".join(body for _, body in FENCE.findall(text))
    shown = re.findall(r"^(?:\$ )?fluxedge ([a-z]+)\b", blocks, re.MULTILINE)
    shown += re.findall(r"`fluxedge ([a-z]+)\b", FENCE.sub("", text))
    assert set(shown) <= set(command_line.VERBS)
    targets = set(re.findall(r"^([a-z]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z]+)\b", text, re.MULTILINE)) <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_command_lines_use_options_that_exist(page: Path) -> None:
    known = commands()
    blocks = "\n".join(body for _, body in FENCE.findall(text_of(page)))
    for line in re.findall(r"^(?:\$ )?fluxedge ([^\n#]+)", blocks, re.MULTILINE):
        words = line.split()
        verb = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
        if verb not in known:
            continue  # a group alone, or a pattern
        options = {name for param in known[verb].params for name in param.opts}
        used = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert used <= options | {"--help"}, f"{page.name}: fluxedge {line}"


# --- payloads ---------------------------------------------------------------------------------------------------------


def payload_samples() -> list[dict[str, typing.Any]]:
    blocks = [body for language, body in FENCE.findall(text_of(DOCS / "mqtt.md")) if language == "json"]
    return [json.loads(body) for body in blocks]


@pytest.mark.parametrize("sample", [sample for sample in payload_samples() if "lane" in sample])
def test_payload_samples_fit_their_schema(sample: dict[str, typing.Any]) -> None:
    form = "events" if sample["lane"] == "events" else "rounds-json-columns" if "groups" in sample else "rounds-json"
    schema = json.loads(text_of(ROOT / "fluxedge" / "uplinks" / "schemas" / f"{form}.schema.json"))
    jsonschema.Draft202012Validator(schema).validate(sample)


def test_every_payload_is_shown() -> None:
    assert {(sample["lane"], "groups" in sample) for sample in payload_samples() if "lane" in sample} == {
        ("rounds", False),
        ("rounds", True),
        ("events", False),
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_samples_compile(page: Path) -> None:
    for language, body in FENCE.findall(text_of(page)):
        if language == "python":
            compile(body, str(page), "exec")


# --- samples and links ------------------------------------------------------------------------------------------------


def samples(page: Path) -> Iterator[tuple[str, str]]:
    """Yield (file name, text) of TOML samples that say which file they are."""
    for language, body in FENCE.findall(text_of(page)):
        first = body.splitlines()[0] if body else ""
        name = re.match(r"# ((?:devices/|drivers/)?[\w.-]+\.toml)", first)
        if language == "toml" and name:
            yield name[1], body


@pytest.mark.parametrize("page", [page for page in PAGES if list(samples(page))], ids=lambda p: p.name)
def test_samples_load_without_a_mistake(page: Path, tmp_path: Path) -> None:
    for name, body in samples(page):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        with path.open("a") as file:  # two samples of one file are parts of it
            file.write(body)
    loaded = load(Layout(tmp_path), apply.findings)
    assert [mistake.text() for mistake in loaded.mistakes] == []
    assert loaded.config.devices or loaded.config.uplinks


def test_most_samples_say_which_file_they_are() -> None:
    toml = [body for page in PAGES for language, body in FENCE.findall(text_of(page)) if language == "toml"]
    named = [sample for page in PAGES for sample in samples(page)]
    assert len(toml) - len(named) <= 1  # drivers/README.md shows a driver file of a product that does not exist


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of the headings."""
    titles = re.findall(r"^#{1,6} (.+)$", FENCE.sub("", text_of(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text_of(page))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        if not other.exists() or (anchor and anchor not in anchors(other)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_of_the_tree_exist(page: Path) -> None:
    named = re.findall(r"`((?:fluxedge|tests|tools|bench|drivers|docs)/[\w./-]+)`", text_of(page))
    written_by_us = {"bench/out/results.json"}
    assert [name for name in named if name not in written_by_us and not (ROOT / name).exists()] == []


def test_the_layers_in_the_architecture_are_those_of_the_architecture_test() -> None:
    fence = next(body for _, body in FENCE.findall(text_of(ROOT / "ARCHITECTURE.md")) if body.startswith("app "))
    drawn = [set(re.sub(r"\s{3,}\S.*$", "", line).split()) for line in fence.splitlines()]
    assert drawn == [set(row) for row in reversed(ROWS)]


def test_both_readmes_have_the_same_sections() -> None:
    shapes = []
    for page in READMES:
        text = text_of(page)
        heads = re.findall(r"^(#+) ", FENCE.sub("", text), re.MULTILINE)
        links = set(re.findall(r"\]\(([^)\s]+)\)", text)) - {"README.md", "README.zh-CN.md"}
        commands = [
            re.sub(r"\s+#.*", "", line) for lang, body in FENCE.findall(text) if not lang for line in body.splitlines()
        ]
        shapes.append((heads, links, commands))
    assert shapes[0] == shapes[1]


def test_the_readmes_are_short() -> None:
    for page in READMES:
        assert len(text_of(page).splitlines()) <= 150
