"""Brings the fixture `hauberk_mesh`."""

pytest_plugins = ["hauberk.pytest_plugin"]
