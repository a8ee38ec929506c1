"""Install all peers, and say which cannot be: `python -m bench.peers`."""

import sys

from bench.peers import install

for name, reason in install().items():
    print(f"{name} is not installed: {reason}", file=sys.stderr)
