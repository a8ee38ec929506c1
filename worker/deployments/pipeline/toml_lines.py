"""The line of each key of a TOML text.

Stage: reading deploy.toml; `tomllib` returns values without positions.
In: a text that `tomllib` has accepted, so it is not checked here. Out: a line number, from 1, for
each path of keys and array positions.
Invariant: each path of the parsed document has a line, and no other path has one.
"""

import re
import tomllib
from typing import cast

Path = tuple[str | int, ...]

BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
SPACE = re.compile(r"[ \t]*")
BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
STRING = re.compile(
    r'"""(?:[^\\]|\\[\s\S])*?"{3,5}'
    + r"|'''[\s\S]*?'{3,5}"
    + r'|"(?:[^"\\\n]|\\.)*"'
    + r"|'[^'\n]*'"
)
SCALAR = re.compile(r"[^,\]}\n#]+")


def key_lines(text: str) -> dict[Path, int]:
    return _Scan(text).document()


def line_of(lines: dict[Path, int], path: Path) -> int:
    """The line of the path, or of the nearest table or array around it."""
    for length in range(len(path), 0, -1):
        if path[:length] in lines:
            return lines[path[:length]]
    return 1


class _Scan:
    """One pass over the text, at the position `at`."""

    def __init__(self, text: str) -> None:
        self.text: str = text
        self.at: int = 0
        self.lines: dict[Path, int] = {}
        self.array_sizes: dict[Path, int] = {}

    def document(self) -> dict[Path, int]:
        table: Path = ()
        while self._next(BLANK):
            if self.text.startswith("[", self.at):
                table = self._header()
            else:
                self._pair(table)
        return self.lines

    def _header(self) -> Path:
        line = self._line()
        brackets = 2 if self.text.startswith("[[", self.at) else 1
        self.at += brackets
        keys = self._keys()
        self.at += brackets
        table = self._enter((), keys[:-1], line)
        table = (*table, keys[-1])
        self.lines[table] = line
        if brackets == 2:
            size = self.array_sizes.get(table, 0)
            self.array_sizes[table] = size + 1
            table = (*table, size)
            self.lines[table] = line
        return table

    def _pair(self, table: Path) -> None:
        line = self._line()
        keys = self._keys()
        self.at += 1  # the equals sign
        path = (*self._enter(table, keys[:-1], line), keys[-1])
        self.lines[path] = line
        self._value(path)

    def _value(self, path: Path) -> None:
        self._next(SPACE)
        opening = self.text[self.at]
        if opening in "\"'":
            self._take(STRING)
        elif opening == "[":
            self._array(path)
        elif opening == "{":
            self._inline_table(path)
        else:
            self._take(SCALAR)

    def _array(self, path: Path) -> None:
        self.at += 1
        position = 0
        while self._next(BLANK) and self.text[self.at] != "]":
            element = (*path, position)
            self.lines[element] = self._line()
            self._value(element)
            position += 1
            self._skip_comma()
        self.at += 1

    def _inline_table(self, path: Path) -> None:
        self.at += 1
        while self._next(BLANK) and self.text[self.at] != "}":
            self._pair(path)
            self._skip_comma()
        self.at += 1

    def _skip_comma(self) -> None:
        self._next(BLANK)
        if self.text.startswith(",", self.at):
            self.at += 1

    def _enter(self, table: Path, keys: list[str], line: int) -> Path:
        """The table that dotted keys lead to: in an array of tables, its last one."""
        for key in keys:
            table = (*table, key)
            self.lines.setdefault(table, line)
            if table in self.array_sizes:
                table = (*table, self.array_sizes[table] - 1)
        return table

    def _keys(self) -> list[str]:
        keys: list[str] = []
        while True:
            self._next(SPACE)
            keys.append(self._key())
            self._next(SPACE)
            if not self.text.startswith(".", self.at):
                return keys
            self.at += 1

    def _key(self) -> str:
        if self.text[self.at] in "\"'":
            # tomllib decodes the escapes: a quoted key is written like a string.
            return cast("str", tomllib.loads(f"key = {self._take(STRING)}")["key"])
        return self._take(BARE_KEY)

    def _take(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self.at)
        if found is None:
            raise ValueError(f"not TOML at line {self._line()}")
        self.at = found.end()
        return found.group()

    def _next(self, skipped: re.Pattern[str]) -> bool:
        """Go past what is skipped; False at the end of the text."""
        self._take(skipped)
        return self.at < len(self.text)

    def _line(self) -> int:
        return self.text.count("\n", 0, self.at) + 1
