"""Scenes: a fresh database with daemons that are forked instead of started."""

from tests.chaos.nursery import nursery as nursery
from tests.chaos.scene import scene as scene
