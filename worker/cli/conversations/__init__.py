"""The commands about chat threads and their messages."""
