"""What users of Jobsworth import.

Invariant: the packages that it needs are loaded from beside it first (`own_packages`).
"""

from jobsworth.own_packages import load_own_packages

load_own_packages()
