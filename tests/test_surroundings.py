"""Tests start from the same surroundings, whatever started them."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.support import ROOT

HOSTILE = """
import os, resource, signal, sys
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
os.umask(0o077)
resource.setrlimit(resource.RLIMIT_NOFILE, (128, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
os.close(0)
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
"""

ASK = """
import json, os, resource, signal, time
from tests import surroundings
surroundings.settle()
umask = os.umask(0)
print(json.dumps({
    "ignored": [n.name for n in (*surroundings.SIGNALS, signal.SIGINT)
                if signal.getsignal(n) is signal.SIG_IGN],
    "blocked": list(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    "umask": umask,
    "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 128,
    "stdin": os.fstat(0).st_rdev == os.stat("/dev/null").st_rdev,
    "zone": time.tzname[0],
    "left": sorted(name for name in os.environ if surroundings.FOREIGN.fullmatch(name)),
    "kept": [os.environ.get("JOBSWORTH_CHAOS_SEEDS"), os.environ.get("https_proxy")],
    "steering": [os.environ.get(name) for name in
                 ("JOBSWORTH_FAULT_ROUNDS", "JOBSWORTH_TEST_PGBOUNCER")],
    "home": os.environ.get("HOME", "") != "",
    "not proxied": "127.0.0.1" in os.environ["NO_PROXY"],
}))
"""


def test_whatever_starts_the_tests_they_find_what_a_quiet_terminal_has() -> None:
    env = {
        "PATH": "/usr/bin:/bin",
        "PGSERVICE": "elsewhere",
        "PGHOSTADDR": "192.0.2.1",
        "LC_ALL": "C",
        "TZ": "Asia/Kathmandu",
        "COLUMNS": "17",
        "FORCE_COLOR": "1",
        "NOTIFY_SOCKET": "/run/nowhere",
        "GIT_DIR": "/nowhere",
        "OPENAI_API_KEY": "sk-not-to-be-used",
        "JOBSWORTH_SLOTS": "1",
        "JOBSWORTH_CHAOS_SEEDS": "3",
        "JOBSWORTH_FAULT_ROUNDS": "2",
        "JOBSWORTH_TEST_PGBOUNCER": "required",
        "https_proxy": "http://192.0.2.1:1",
    }
    ran = subprocess.run(
        [sys.executable, "-c", HOSTILE, ASK],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(ran.stdout) == {
        "ignored": [],
        "blocked": [],
        "umask": 0o022,
        "files": True,
        "stdin": True,
        "zone": "UTC",
        "left": [],
        "kept": ["3", "http://192.0.2.1:1"],
        "steering": ["2", "required"],
        "home": True,
        "not proxied": True,
    }
