"""Joins in each worker what was joined before the fork."""

from typing import Any


def post_fork(server: Any, worker: Any) -> None:
    from joined_early import joined  # type: ignore[import-not-found]  # found where gunicorn runs

    joined.start()
