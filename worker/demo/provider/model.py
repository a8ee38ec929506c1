"""The model of the demo's daemons: a priced one from the demo's own provider, or the offline rules.

In: the model's name. Out: settings for the daemons, and the provider's bill. Invariant: no request
goes to a real provider, whatever keys and proxies are in the environment; the demo's provider ends
with the block.
"""

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from db.errors import InvalidInput, JobsworthError
from worker.demo.provider.bill import Charge, read_bill
from worker.settings import PREFIX

OFFLINE = "offline"
PRICED = "openai:gpt-5-mini"
"""A model whose price is known, so that the books show realistic costs."""

URL_CHARACTERS_MAX = 200
LOOPBACK = "127.0.0.1"


class ProviderError(JobsworthError):
    """The demo's provider did not start."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that the daemons can use with the variables in `environment`."""

    name: str
    environment: dict[str, str] = field(default_factory=dict[str, str])
    bill_file: Path | None = None

    @property
    def priced(self) -> bool:
        return self.bill_file is not None

    def bill(self) -> list[Charge]:
        """What the provider has charged so far; empty for the offline rules."""
        return [] if self.bill_file is None else read_bill(self.bill_file)


def check_model(name: str) -> None:
    """Raise `InvalidInput` for a model that the demo does not offer."""
    if name not in (PRICED, OFFLINE):
        raise InvalidInput(
            f"the demo does not offer the model {name!r}: it uses no real provider",
            f"use --model {PRICED} (the default, served by the demo itself) or --model {OFFLINE}",
        )


@contextmanager
def serve(name: str, folder: Path) -> Generator[ServedModel]:
    """Serve a model until the block ends. Blocking. The provider's bill is a file in `folder`."""
    if name == OFFLINE:
        yield ServedModel(name, {f"{PREFIX}MODEL": name})
        return
    bill = folder / "bill.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "worker.demo.provider.server", str(bill)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(_paths())},
        start_new_session=True,
    )
    try:
        yield ServedModel(name, _environment(name, _url(process)), bill)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _url(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    said = process.stdout.readline(URL_CHARACTERS_MAX).decode(errors="replace").strip()
    if not said.startswith("http://"):
        raise ProviderError(
            f"the demo's provider did not start: {said or 'it said nothing'}",
            f"check that a port of {LOOPBACK} can be opened, or use --model {OFFLINE}",
        )
    return said


def _environment(name: str, url: str) -> dict[str, str]:
    direct = ",".join(filter(None, [LOOPBACK, os.environ.get("NO_PROXY")]))
    return {
        f"{PREFIX}MODEL": name,
        f"{PREFIX}MODEL_URL": url,
        # Never the user's own key, which OPENAI_API_KEY may hold.
        f"{PREFIX}MODEL_KEY": "demo",
        "NO_PROXY": direct,
        "no_proxy": direct,
    }


def _paths() -> list[str]:
    ours = Path(__file__).resolve().parents[3]
    return [str(ours), *filter(None, [os.environ.get("PYTHONPATH")])]
