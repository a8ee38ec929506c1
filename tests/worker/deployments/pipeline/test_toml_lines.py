"""Every key of a TOML text is found on its line, however it is written."""

import tomllib
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from worker.deployments.pipeline.toml_lines import Path, key_lines, line_of

NASTY = '''\
# [not.a.table]
title = "a # b \\" ] }"   # comment
"quoted key" = 1
'literal "key"' = 2
a.b . "c.d" = 3
text = """
x = 1
[no]
\\""" still
"""
lit = \'\'\'
y = 2\'\'\'
numbers = [
  1, # one ]
  [2,
   3],
  { k = "v", n.m = [
     4 ] },
]
when = 1979-05-27 07:32:32
empty = []
none = {}

[table]
inner = { a = 1, "b c" = { d = [{ e = 2 }] } }

[[items]]
name = "one"
[items.sub]
x = 1
[[items]]
name = "two"
[[items.deep]]
y = 1
[table.later]
z = true
'''


def paths(value: object, place: Path = ()) -> set[Path]:
    found = {place} if place else set[Path]()
    if isinstance(value, dict):
        for key, inner in cast("dict[str, object]", value).items():
            found |= paths(inner, (*place, key))
    if isinstance(value, list):
        for position, inner in enumerate(cast("list[object]", value)):
            found |= paths(inner, (*place, position))
    return found


def test_exactly_the_paths_of_the_document_have_lines() -> None:
    assert set(key_lines(NASTY)) == paths(tomllib.loads(NASTY))


def test_each_path_has_the_line_it_stands_on() -> None:
    lines = key_lines(NASTY)
    rows = NASTY.splitlines()
    for path, mark in {
        ("quoted key",): '"quoted key"',
        ('literal "key"',): "'literal",
        ("a", "b", "c.d"): "a.b",
        ("lit",): "lit =",
        ("numbers", 0): "  1, # one",
        ("numbers", 1, 1): "   3],",
        ("numbers", 2, "n", "m", 0): "     4 ]",
        ("when",): "when",
        ("table",): "[table]",
        ("table", "inner", "b c", "d", 0, "e"): "inner",
        ("items", 0, "sub", "x"): "x = 1",
        ("items", 1, "name"): 'name = "two"',
        ("items", 1, "deep", 0, "y"): "y = 1",
        ("table", "later", "z"): "z = true",
    }.items():
        assert mark in rows[lines[path] - 1], path
    assert rows[lines["items", 0, "sub", "x"] - 2] == "[items.sub]"


def test_a_missing_key_has_the_line_of_its_table_even_if_that_comes_after_its_parts() -> None:
    lines = key_lines("[a.b.c]\nx = 1\n\n[a.b]\ny = 2\n")
    assert line_of(lines, ("a", "b", "gone")) == 4
    assert line_of(lines, ("gone",)) == 1


KEYS = st.sampled_from(["a", "b-c", '"d e"', "'f.g'", '"\\u00e9\\""'])
LEAVES = st.sampled_from(
    ["1", "-2.5e3", "true", "1979-05-27 07:32:32", '"x]#\\""', "'}'", '"""\n]\n""""', "'''\n#'''"]
)


def containers(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    gap = st.sampled_from(["", " ", "\n", " # ] }\n"])
    lists = st.tuples(st.lists(inner, max_size=3), gap).map(
        lambda made: "[" + made[1] + f",{made[1]}".join(made[0]) + made[1] + "]"
    )
    tables = st.dictionaries(KEYS, inner, max_size=3).map(
        lambda made: "{" + ", ".join(f"{key} = {value}" for key, value in made.items()) + "}"
    )
    return lists | tables


@given(st.dictionaries(KEYS, st.dictionaries(KEYS, st.recursive(LEAVES, containers), max_size=4)))
def test_any_document_has_a_line_for_each_of_its_paths(
    tables: dict[str, dict[str, str]],
) -> None:
    text = "".join(
        f"[{name}]  # x\n" + "".join(f"{key} = {value}\n" for key, value in pairs.items())
        for name, pairs in tables.items()
    )
    assert set(key_lines(text)) == paths(tomllib.loads(text))
