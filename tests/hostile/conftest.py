"""Daemons for the hostile tests."""

from tests.chaos.nursery import nursery as nursery
from tests.chaos.scene import scene as scene
