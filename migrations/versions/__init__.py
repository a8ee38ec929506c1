"""One module per revision: `<number>_<what it brings>.py`."""
