"""deploy.toml: what loads can be run; every mistake is explained, with its line."""

import json
from pathlib import Path

import pytest

from worker.deployments.pipeline.config import (
    Environment,
    Probe,
    fill_placeholders,
    find_environment,
    load_environments,
)
from worker.deployments.pipeline.errors import DeployConfigError, UnknownEnvironment

GOOD = """\
[environments.staging]
repository = "../site.git"
build = ["make", "build"]
switch = ["./switch", "{release}"]
rollback = [
    "./switch",  # back
    "{previous}",
]
environment = { NODE_ENV = "production" }

[environments.staging.probe]
url = "http://127.0.0.1:8080/health"

[environments.production]
repository = "git@example.org:site.git"
releases_keep = 9
probe.command = ["./probe.sh", "{sha}", "${HOME}", '{"json": 1}']
probe.attempts = 2
timeouts.build_seconds = 1200
"""


def write(directory: Path, text: str) -> Path:
    file = directory / "deploy.toml"
    file.write_text(text)
    return file


def problems(directory: Path, text: str) -> list[str]:
    """The problems of a file, each as `line key: reason; remedy`."""
    with pytest.raises(DeployConfigError) as raised:
        load_environments(write(directory, text))
    prefix = f"{directory}/deploy.toml:"
    lines = str(raised.value).splitlines()
    assert all(line.startswith(prefix) for line in lines)
    return [line.removeprefix(prefix) for line in lines]


def change(line: str, by: str) -> str:
    """GOOD with one line replaced."""
    assert GOOD.count(line) == 1
    return GOOD.replace(line, by)


def test_a_good_file_loads_with_defaults_and_the_path_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    environments = load_environments(write(tmp_path / "etc", GOOD))
    staging, production = environments["staging"], environments["production"]
    assert staging.name == "staging"
    assert staging.repository == str(tmp_path / "site.git")
    assert staging.build == ("make", "build")
    assert staging.test is None
    assert staging.environment == {"NODE_ENV": "production"}
    assert staging.probe == Probe(url="http://127.0.0.1:8080/health", status=200, attempts=5)
    assert (staging.releases_keep, staging.timeouts.build_seconds) == (5, 600)
    assert production.repository == "git@example.org:site.git"
    assert production.timeouts.build_seconds == 1200
    assert production.probe.command == ("./probe.sh", "{sha}", "${HOME}", '{"json": 1}')


def test_the_example_loads() -> None:
    example = Path(__file__).parents[4] / "examples" / "deploy.toml"
    assert {"staging", "production"} <= set(load_environments(example))


def test_placeholders_are_replaced_literally_and_never_split() -> None:
    values = {"sha": "abc", "release": "/a b/{sha}", "previous": "", "environment": "x"}
    argv = ("{sha}-{environment}", "{release}", "{previous}", "${sha}")
    assert fill_placeholders(argv, values) == ("abc-x", "/a b/{sha}", "", "${sha}")


def test_an_unknown_environment_lists_the_known_ones(tmp_path: Path) -> None:
    environments: dict[str, Environment] = load_environments(write(tmp_path, GOOD))
    assert find_environment(environments, "staging").name == "staging"
    with pytest.raises(UnknownEnvironment, match="'prod'.*production, staging.*deploy.toml"):
        find_environment(environments, "prod")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            change('build = ["make", "build"]', 'build = "make build"'),
            "3: environments.staging.build: is a string, but a command is a list of arguments "
            '(there is no shell); write it as a list: build = ["make", "build"]',
            id="argv as a string",
        ),
        pytest.param(
            change('"{previous}",', '"{previos}",'),
            "7: environments.staging.rollback[1]: has the unknown placeholder {previos}; use "
            "{sha}, {release}, {previous}, {environment}, or put a command that needs such braces "
            "into a script",
            id="unknown placeholder in an array over several lines",
        ),
        pytest.param(
            change('build = ["make", "build"]', "build = []"),
            "3: environments.staging.build: does not name a program; write a program first, as in "
            '["make", "build"]',
            id="empty argv",
        ),
        pytest.param(
            change('build = ["make", "build"]', 'biuld = ["make"]'),
            "3: environments.staging.biuld: is an unknown key; did you mean `build`?",
            id="misspelt key",
        ),
        pytest.param(
            change("releases_keep = 9", "name = 'x'"),
            "16: environments.production.name: is an unknown key; remove it; known here are: "
            "approvals, build, environment, probe, releases_keep, repository, rollback, secrets, "
            "switch, test, timeouts",
            id="foreign key",
        ),
        pytest.param(
            change('repository = "../site.git"\n', ""),
            "1: environments.staging.repository: is missing; add `repository = "
            '"/srv/git/site.git"`, a path or a git URL',
            id="missing repository",
        ),
        pytest.param(
            change("releases_keep = 9", 'releases_keep = "9"'),
            "16: environments.production.releases_keep: is a string, but must be a whole number; "
            "write it without quotes and fraction",
            id="number in quotes",
        ),
        pytest.param(
            change("releases_keep = 9", "releases_keep = 0"),
            "16: environments.production.releases_keep: should be greater than or equal to 1 "
            "(it is 0); write a value within these bounds",
            id="out of bounds",
        ),
        pytest.param(
            change("timeouts.build_seconds = 1200", "timeouts.build_seconds = nan"),
            "19: environments.production.timeouts.build_seconds: should be a finite number "
            "(it is nan); write a value within these bounds",
            id="not a number",
        ),
        pytest.param(
            change("timeouts.build_seconds = 1200", "timeouts.bild_seconds = 1"),
            "19: environments.production.timeouts.bild_seconds: is an unknown key; did you mean "
            "`build_seconds`?",
            id="unknown timeout by a dotted key",
        ),
        pytest.param(
            change('NODE_ENV = "production"', "NODE_ENV = 1"),
            "9: environments.staging.environment.NODE_ENV: is a number, but must be a string; "
            'write it in quotes, as in "text"',
            id="variable that is no string",
        ),
        pytest.param(
            change('NODE_ENV = "production"', 'JOBSWORTH_X = "1"'),
            "9: environments.staging.environment.JOBSWORTH_X: is a reserved name; choose one that "
            "does not begin with JOBSWORTH_",
            id="reserved variable",
        ),
        pytest.param(
            change('url = "http://127.0.0.1:8080/health"', 'url = "127.0.0.1:8080"'),
            "12: environments.staging.probe.url: '127.0.0.1:8080' is not an http URL; write one, "
            'as in "http://127.0.0.1:8080/health"',
            id="no URL",
        ),
        pytest.param(
            change('url = "http://127.0.0.1:8080/health"', "attempts = 3"),
            "11: environments.staging.probe: has neither `url` nor `command`; add `url = "
            '"http://…"` or `command = ["…"]`',
            id="probe without url and command",
        ),
        pytest.param(
            change("probe.attempts = 2", 'probe.url = "http://x"'),
            "17: environments.production.probe.command: cannot be given together with `url`; "
            "keep one of the two",
            id="probe of both kinds",
        ),
        pytest.param(
            change("probe.attempts = 2", "probe.attempts = 100"),
            "17: environments.production.probe: 100 attempts pause 99 s between them, which leaves "
            "nothing of timeouts.probe_seconds = 30; lower `attempts` or `interval_seconds`, or "
            "raise `probe_seconds`",
            id="probe without time",
        ),
        pytest.param(
            change("releases_keep = 9", 'switch = ["./switch"]'),
            "16: environments.production.switch: has no `rollback` beside it, and moving the "
            "symlink back cannot undo a command; add `rollback = […]`, the command that puts "
            '"{previous}" live again',
            id="switch that cannot be undone",
        ),
        pytest.param(
            change("[environments.production]", '[environments."Pro duction"]'),
            "14: environments.Pro duction: is not a valid environment name; use lower-case "
            "letters, digits, '-' and '_' (it becomes a directory)",
            id="environment name in quotes",
        ),
        pytest.param(
            change('repository = "../site.git"', 'repository = "--upload-pack=x"'),
            "2: environments.staging.repository: begins with '-'; write a path or a git URL",
            id="repository that is an option",
        ),
        pytest.param(
            change('build = ["make", "build"]', 'build = ["make", "a\\u0000b"]'),
            "3: environments.staging.build[1]: has a NUL byte in it; remove it, no program can be "
            "given one",
            id="NUL byte",
        ),
        pytest.param(
            "# nothing\n",
            "1: environments: is missing; add a table such as [environments.staging]",
            id="empty file",
        ),
        pytest.param(
            "environments = 3\n",
            "1: environments: is a number, but must be a table; write it as a table",
            id="no table",
        ),
        pytest.param(
            "[environments]\n",
            "1: environments: defines no environment; add a table such as [environments.staging]",
            id="no environment",
        ),
        pytest.param(
            change("releases_keep = 9", 'repository = "again"'),
            "16: is not TOML: cannot overwrite a value; correct the TOML there (or just before)",
            id="key given twice",
        ),
        pytest.param(
            change("releases_keep = 9", "releases_keep = "),
            "16: is not TOML: invalid value; correct the TOML there (or just before)",
            id="broken TOML",
        ),
    ],
)
def test_a_mistake_names_line_key_reason_and_remedy(
    tmp_path: Path, text: str, expected: str
) -> None:
    assert problems(tmp_path, text) == [expected]


def test_a_file_cut_off_at_its_end_names_the_last_line(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, GOOD + 'x = ["make",\n')
    assert found.startswith(("20:", "21:"))
    assert "is not TOML" in found


def test_all_mistakes_are_reported_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = GOOD.replace("build =", "biuld =").replace("[1200]", "").replace("= 9", "= true")
    text = text.replace("timeouts.", "timeout.")
    assert [found.split(":")[0:2] for found in problems(tmp_path, text)] == [
        ["3", " environments.staging.biuld"],
        ["16", " environments.production.releases_keep"],
        ["19", " environments.production.timeout"],
    ]


def test_windows_line_ends_do_not_shift_the_lines(tmp_path: Path) -> None:
    text = change("releases_keep = 9", "releases_keep = 0").replace("\n", "\r\n")
    file = tmp_path / "deploy.toml"
    file.write_bytes(text.encode())
    with pytest.raises(DeployConfigError, match=r"deploy\.toml:16: .*releases_keep"):
        load_environments(file)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DeployConfigError, match=r"gone\.toml:1: the file does not exist; write one"
    ):
        load_environments(tmp_path / "gone.toml")
    with pytest.raises(DeployConfigError, match=":1: cannot be read: Is a directory"):
        load_environments(tmp_path)
    (tmp_path / "latin").write_bytes(b"a = 1\nb = '\xff'\n")
    with pytest.raises(DeployConfigError, match="latin:2: is not UTF-8 text"):
        load_environments(tmp_path / "latin")


def test_what_json_writes_as_a_string_is_a_toml_string(tmp_path: Path) -> None:
    """Other tests write their deploy.toml with JSON strings."""
    repository = '/ü"x'
    text = f"[environments.a]\nrepository = {json.dumps(repository)}\nprobe.command = ['true']\n"
    assert load_environments(write(tmp_path, text))["a"].repository == repository


@pytest.mark.parametrize(
    "url", ["https://h/a.git", "ssh://git@h/a.git", "git@h:a.git", "file:///a"]
)
def test_a_git_url_of_a_secure_scheme_is_allowed(tmp_path: Path, url: str) -> None:
    text = change('repository = "../site.git"', f'repository = "{url}"')
    assert load_environments(write(tmp_path, text))["staging"].repository == url


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://h/a.git", "has the scheme 'http'; use https, ssh or file"),
        ("git://h/a.git", "has the scheme 'git'"),
        ("ext::sh -c id", "names a git transport helper"),
        ("https://me:hunter2@h/a.git", "has credentials in it"),
        ("https://hunter2@h/a.git", "has credentials in it"),
        ("ssh://me:hunter2@h/a.git", "has credentials in it"),
    ],
)
def test_any_other_git_url_is_refused_without_repeating_a_password(
    tmp_path: Path, url: str, reason: str
) -> None:
    text = change('repository = "../site.git"', f'repository = "{url}"')
    with pytest.raises(DeployConfigError) as refused:
        load_environments(write(tmp_path, text))
    assert f"environments.staging.repository: {reason}" in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("approvals = 3", "approvals: should be less than or equal to 2 (it is 3)"),
        ("approvals = true", "approvals: is true or false, but must be a whole number"),
        ("secrets = 'A'", "secrets: is a string"),
        ("secrets = ['A-B']", "secrets[0]: is not a valid variable name"),
        ("secrets = ['JOBSWORTH_DATABASE_URL']", "secrets[0]: is a reserved name"),
    ],
)
def test_approvals_and_secrets_are_checked(tmp_path: Path, line: str, reason: str) -> None:
    with pytest.raises(DeployConfigError) as refused:
        load_environments(write(tmp_path, change("releases_keep = 9", line)))
    assert reason in str(refused.value)
