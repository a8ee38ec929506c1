"""What can be checked about the code itself: who imports whom, what is documented and used, how SQL
is written, and how long a file may get."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from itertools import groupby
from pathlib import Path

import pytest

from db.migrate import REVISIONS
from db.schema import DEFAULT_SCHEMA, render
from migrations.sources import DIRECTORY as SCHEMA
from migrations.sources import files as schema_files
from tests.support import ROOT, environment
from worker import events
from worker.crash_points import CRASH_POINTS
from worker.settings import Settings, env_name, settings_reference

PACKAGES = ("db", "worker", "migrations", "jobsworth")
OUTER = ("worker.cli", "worker.web", "worker.api", "worker.dashboard", "worker.demo")
# The daemon carries the health endpoint and the counters; the rest of the core must not know them.
MAY_IMPORT_WEB = {"worker.daemon.daemon", "worker.daemon.parts", "worker.queue.attempt_log"}
LINES_MAX = 500
FILES_MAX = 20
# Handlers as a user would write them.
USERS = {"worker/demo/handlers.py"}
# What takes a second to load, and is loaded with the first job of an agent.
OF_AGENTS = ["pydantic_ai", "openai", "anthropic", "genai_prices"]
# Settings that are only checked: there is nothing to choose from yet.
CHECKED_ONLY: dict[str, str] = {}
# LISTEN needs a connection of its own, outside the pool, and returns nothing.
SQL_OUTSIDE = {"worker/queue/wake.py"}
# Statements that several functions share on purpose.
SHARED = {
    "db/bulk/batches.py": {"REFUSAL"},  # what is counted and what is shown
    "db/bulk/filters.py": {"FITS", "MATCHES"},  # of every statement that takes a filter
    "db/bulk/matching.py": {"BETWEEN"},  # the bounds of every stretch
    "db/deployments/deployments.py": {"LATEST"},
    "db/queue/enqueue.py": {"ENQUEUE"},  # async and not
    "db/queue/enqueue_many.py": {"RECONSIDER_STAGED", "INSERT_EDGES"},
    "db/diagnosis/health.py": {"INDEXES_ONLY", "NO_JOINS_OF_ALL"},  # limits that the samples share
    "db/pool.py": {"BEGIN"},  # of every transaction
    "db/fence.py": {"FENCE", "FENCED", "PINNED"},  # of every fenced statement
    "db/memory/memories.py": {"IN_SCOPE"},  # of what holds and of what has held
    "db/money/repricing.py": {"CORRECTING"},  # a transaction's beginning
    "db/money/settlements.py": {"SETTLING"},  # a transaction's beginning
    "db/runs/runs.py": {"START"},  # async and not
    "db/steps/steps.py": {"OUTPUT"},
    "db/approvals/voting.py": {"RESOLVE"},  # async and not
}
SQL = re.compile(
    r"\s*(select|insert|update|delete|with|create|alter|drop|listen|notify|truncate)\b", re.I
)
RELATION = re.compile(
    r"\b(?:from|join|into|update)\s+(?:only\s+)?(?P<name>[a-z_.\"]+)(?P<call>\s*\()?"
)
# What follows `from`, `update` and the like without being a relation.
NO_RELATION = {"lateral", "set", "of", "no", "nothing", "skip"}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def sources(*packages: str) -> list[Path]:
    """Our modules, migrations' revisions aside."""
    return sorted(
        path
        for package in packages or PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if "versions" not in path.parts
    )


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def text_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> set[str]:
    """The modules that a file imports: anywhere in it, for type checkers only, or by name."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        match node:
            case ast.Import():
                found |= {alias.name for alias in node.names}
            case ast.ImportFrom(module=str() as module):
                found |= {_imported(module, alias.name) for alias in node.names}
            case ast.Call(args=[ast.Constant(value=str() as name), *_]) if ast.unparse(
                node.func
            ).endswith("import_module"):
                found.add(name)
            case _:
                pass
    return found


def _imported(module: str, name: str) -> str:
    """What `from module import name` needs: a module of that name, or what the module defines."""
    path = ROOT / module.replace(".", "/") / name
    return f"{module}.{name}" if path.is_dir() or path.with_suffix(".py").exists() else module


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


# Imports.


def test_db_never_imports_worker() -> None:
    for path in sources("db", "migrations"):
        assert not [name for name in imports(path) if within(name, "worker")], path


def test_the_product_never_imports_its_public_face() -> None:
    """The demo's handlers do: they are written as a user would write them."""
    for path in sources("db", "worker", "migrations"):
        if text_of(path) not in USERS:
            assert not [name for name in imports(path) if within(name, "jobsworth")], path


def test_the_product_never_imports_its_tests() -> None:
    for path in sources():
        outside = [n for n in imports(path) if n.split(".")[0] in ("tests", "bench", "examples")]
        assert not outside, path


@pytest.mark.parametrize("package", OUTER)
def test_the_core_does_not_import_what_is_built_on_it(package: str) -> None:
    allowed = MAY_IMPORT_WEB if package == "worker.web" else set[str]()
    for path in sources("worker"):
        name = module_name(path)
        if name not in allowed and not any(within(name, outer) for outer in OUTER):
            assert not [n for n in imports(path) if within(n, package)], path


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports for type checkers and within functions count as well."""
    modules = {module_name(path): path for path in sources()}
    graph = {
        name: {found for found in imports(path) if found in modules} - {name}
        for name, path in modules.items()
    }
    reached = {name: _reached(name, graph) for name in graph}
    circles = {
        tuple(sorted(other for other in reached[name] if name in reached[other]))
        for name in graph
        if name in reached[name]
    }
    assert not circles, "\n".join(map(str, sorted(circles)))


def _reached(name: str, graph: dict[str, set[str]]) -> set[str]:
    """The modules that `name` imports, and those that they import, and so on."""
    found: set[str] = set()
    todo = [name]
    while todo:
        new = graph[todo.pop()] - found
        found |= new
        todo += new
    return found


def test_the_command_line_does_not_load_what_only_a_daemon_needs() -> None:
    heavy = [
        "fastapi",
        "uvicorn",
        "prometheus_client",
        "numpy",
        "worker.daemon.daemon",
        "worker.modes",
    ]
    _assert_not_loaded("worker.cli", heavy)
    _assert_not_loaded("worker.cli.installation.doctor", ["worker.modes", *OF_AGENTS])


def test_a_daemon_does_not_load_what_an_endpoint_an_embedder_or_a_migration_needs() -> None:
    heavy = ["fastapi", "uvicorn", "prometheus_client", "numpy", "httpx", "alembic", "sqlalchemy"]
    _assert_not_loaded("worker.daemon.daemon", [*heavy, "opentelemetry", *OF_AGENTS])
    # Its handlers, the shipped modes among them, wait for their first job.
    _assert_not_loaded("worker.modes", OF_AGENTS)


def _assert_not_loaded(module: str, heavy: list[str]) -> None:
    """Importing `module` into a fresh interpreter loads none of these."""
    script = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(None),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]", done.stderr


# Events, settings, crash points.


def used_names(owner: str, packages: tuple[str, ...] = ("worker",)) -> set[str]:
    """The attributes of `owner` that our code uses."""
    return {
        node.attr
        for path in sources(*packages)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name | ast.Attribute)
        and ast.unparse(node.value).rpartition(".")[2].lstrip("_") == owner
    }


def event_constants() -> dict[str, str]:
    return {n: v for n, v in vars(events).items() if n.isupper() and isinstance(v, str)}


def test_every_event_has_a_description_and_its_constants_spelling() -> None:
    constants = event_constants()
    assert set(constants.values()) == set(events.DESCRIPTIONS)
    assert all(value == name.lower().replace("_", ".", 1) for name, value in constants.items())


def test_every_event_is_logged_somewhere() -> None:
    assert set(event_constants()) - used_names("events") == set()


def test_every_log_call_takes_its_event_from_the_catalogue() -> None:
    for path in sources("worker"):
        for node in ast.walk(tree(path)):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and ast.unparse(node.func.value) == "log"
                and node.func.attr in ("debug", "info", "warning", "error", "exception")
            ):
                assert not isinstance(node.args[0], ast.Constant), f"{path}:{node.lineno}"


def test_every_setting_is_in_the_reference_with_its_words() -> None:
    reference = {setting.env_name: setting for setting in settings_reference()}
    assert list(reference) == [env_name(name) for name in Settings.model_fields]
    assert all(s.type and s.default and s.description for s in reference.values())


def test_every_setting_is_used() -> None:
    used = used_names("settings")
    assert set(Settings.model_fields) - used == set(CHECKED_ONLY)


def test_every_crash_point_is_reached_somewhere_and_no_other() -> None:
    reached = {
        str(node.args[0].value)
        for path in sources("worker")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "crash_points.reach"
        and isinstance(node.args[0], ast.Constant)
    }
    assert reached == set(CRASH_POINTS)


# SQL.


def statements(path: Path) -> dict[str, tuple[str, int]]:
    """The SQL constants of a module: name → (whole text, line). Lists of columns are left out."""
    return {
        node.target.id: (getattr(import_module(module_name(path)), node.target.id), node.lineno)
        for node in tree(path).body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and not node.target.id.endswith("COLUMNS")
        and "LiteralString" in ast.unparse(node.annotation)
    }


def all_statements() -> list[tuple[str, str, str]]:
    return [
        (text_of(path), name, text)
        for path in sources()
        for name, (text, _) in statements(path).items()
    ]


def test_sql_lives_in_db_and_migrations() -> None:
    for path in sources("worker"):
        if text_of(path) in SQL_OUTSIDE:
            continue
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert f"{DEFAULT_SCHEMA}." not in node.value or not SQL.match(node.value), (
                    f"{path}:{node.lineno}"
                )


def test_no_sql_is_built_by_formatting() -> None:
    for path in sources():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.JoinedStr):
                head = node.values[0] if node.values else None
                text = head.value if isinstance(head, ast.Constant) else ""
                assert not _looks_like_sql(str(text)), f"{path}:{node.lineno}"


def _looks_like_sql(text: str) -> bool:
    return bool(
        re.match(r"\s*(select .* from|insert into|update .* set|delete from)\b", text, re.I)
    )


@pytest.mark.parametrize(("file", "name", "text"), all_statements(), ids=lambda v: str(v)[:30])
def test_every_statement_qualifies_what_it_touches(file: str, name: str, text: str) -> None:
    no_relations = r"--.*|'[^']*'|\bdistinct\s+from\b|\bextract\s*\(\s*\w+\s+from\b"
    code = re.sub(no_relations, "", text)
    own = set(
        re.findall(r"([a-z_]+)\s+(?:\([^()]*\)\s+)?as\s+(?:not\s+)?(?:materialized\s+)?\(", code)
    )
    own |= set(re.findall(r"\bas\s+([a-z_]+)", code))
    for found in RELATION.finditer(code):
        relation = found["name"]
        if relation in own | NO_RELATION or (found["call"] and "." not in relation):
            continue
        assert relation.startswith((f"{DEFAULT_SCHEMA}.", "pg_", "information_schema.")), (
            f"{file}: {name} reads or writes {relation!r} without its schema"
        )


@pytest.mark.parametrize(("file", "name", "text"), all_statements(), ids=lambda v: str(v)[:30])
def test_the_schemas_name_in_a_statement_is_nothing_but_a_qualifier(
    file: str, name: str, text: str
) -> None:
    rendered = render(text, "elsewhere")  # pyright: ignore[reportArgumentType]
    assert not re.search(rf"\b{DEFAULT_SCHEMA}\b", rendered), f"{file}: {name}"


@pytest.mark.parametrize("path", sources("db"), ids=text_of)
def test_each_statement_stands_above_the_one_function_that_runs_it(path: Path) -> None:
    functions = [
        n for n in tree(path).body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    for name, (_, line) in statements(path).items():
        if name in SHARED.get(text_of(path), ()):
            continue
        users = [function for function in functions if name in _names(function)]
        assert len(users) == 1, f"{path}: {name} is used by {[user.name for user in users]}"
        below = next((function for function in functions if function.lineno > line), None)
        assert below is not None, f"{path}: {name} stands below every function"
        # The function below runs it, or is the only step away from its helper that does.
        assert below is users[0] or users[0].name in _names(below), (
            f"{path}: {name} stands above {below.name}, but {users[0].name} runs it"
        )


def _names(node: ast.AST) -> set[str]:
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}


# The schema.

# The chapters of ARCHITECTURE.md, and what several of them share.
CHAPTERS = {
    *("base", "queue", "steps", "runs", "money", "approvals", "deployments", "conversations"),
    *("memory", "people", "diagnosis", "schedules", "limits", "bulk", "retention"),
}
# At the beginning of a line: function bodies are indented, or begin with `begin` or `declare`.
CREATED = re.compile(
    r"^create (?:or replace )?(?:unlogged )?(?:unique )?(?P<kind>[a-z]+) (?:if not exists )?"
    r"(?P<name>[a-z0-9_.]+)(?:[^;]*? on (?P<table>[a-z0-9_.]+))?",
    re.MULTILINE,
)
# What says an object a second time, or takes it back.
PATCHED = re.compile(r"^(?:create or replace|alter|drop)\b.*", re.MULTILINE)


def created() -> Iterator[str]:
    """Each object of the schema, as often as it is created: "trigger touch on jobsworth.runs"."""
    for name in schema_files():
        for made in CREATED.finditer((SCHEMA / name).read_text()):
            on_table = f" on {made['table']}" if made["kind"] == "trigger" else ""
            yield f"{made['kind']} {made['name']}{on_table}"


def test_each_object_of_the_schema_is_created_once_in_its_final_form() -> None:
    often = {name: times for name, times in Counter(created()).items() if times > 1}
    assert not often
    for name in schema_files():
        assert not PATCHED.findall((SCHEMA / name).read_text()), name


def test_the_objects_of_the_schema_are_found_by_how_they_are_written() -> None:
    found = set(created())
    assert {
        *("table jobsworth.reactive_jobs", "index jobs_ready", "view jobsworth.violations"),
        *("function jobsworth.claim", "type jobsworth.job_status", "sequence jobsworth.lease_no"),
        *("trigger touch on jobsworth.chat_threads", "extension vector"),
        "trigger count_idle_workers on jobsworth.workers",
    } <= found


def test_every_file_of_the_schema_is_in_its_chapter_and_in_the_reading_order() -> None:
    there = sorted(str(path.relative_to(SCHEMA)) for path in SCHEMA.rglob("*") if path.is_file())
    assert there == sorted(["order.txt", *schema_files()])
    for name in schema_files():
        assert re.fullmatch(r"[a-z]+/[a-z_]+\.sql", name), name
        assert name.split("/")[0] in CHAPTERS, name
    stretches = [chapter for chapter, _ in groupby(name.split("/")[0] for name in schema_files())]
    assert len(stretches) == len({*stretches}), "the files of a chapter follow each other"


def test_every_file_of_the_schema_says_what_it_is_and_has_one_subject() -> None:
    for name in schema_files():
        lines = (SCHEMA / name).read_text().splitlines()
        assert lines[0].startswith("-- "), name
        assert len(lines) <= LINES_MAX, name


def test_what_was_released_is_kept() -> None:
    """See migrations/README.md, "The first release"."""
    released = re.search(r"^## v?\d", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    if released or len(REVISIONS) > 1:
        assert (ROOT / "migrations/versions/0001_schema.sql").exists()


# Files.


def test_no_file_has_two_subjects() -> None:
    files = [*sources(), *sorted((ROOT / "tests").rglob("*.py"))]
    lengths = {text_of(path): len(path.read_text().splitlines()) for path in files}
    long = {name: lines for name, lines in lengths.items() if lines > LINES_MAX}
    assert not long, f"cut these by subject: {long}"


def test_no_folder_has_too_many_files_to_look_over() -> None:
    files = [*sources(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "bench").rglob("*.py")]
    folders = Counter(path.parent for path in files if path.name != "__init__.py")
    full = {text_of(folder): count for folder, count in folders.items() if count > FILES_MAX}
    assert not full, f"cut these by subject: {full}"


def test_nothing_is_left_to_be_done() -> None:
    mark = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b")
    skip = re.compile(r"pytest\.(mark\.)?(sk" r"ip|xf" r"ail|importor" r"skip)")
    for path in [*sources(), *sorted((ROOT / "tests").rglob("*.py"))]:
        text = path.read_text()
        assert not mark.search(text), path
        # PgBouncer is Debian's, and no package of Python's brings it: CI installs it.
        assert path.name == "pgbouncer.py" or not skip.search(text), path


def test_every_module_says_what_it_is() -> None:
    for path in sources():
        assert ast.get_docstring(tree(path)), path
