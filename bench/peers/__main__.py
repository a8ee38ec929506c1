"""`python -m bench.peers`: install all peers, and name those that cannot be installed."""

import sys

from bench.peers import install

for name, reason in install().items():
    print(f"{name} is not installed: {reason}", file=sys.stderr)
