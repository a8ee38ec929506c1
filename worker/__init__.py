"""What happens to a job: claiming it, running its handler, and writing down what became of it.

Handlers and applications import from `jobsworth`, never from here.
"""
