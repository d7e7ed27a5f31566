"""gunicorn forks its workers; each joins the mesh by itself, after the fork, with --preload too."""

from typing import Any

workers = 2


def post_fork(server: Any, worker: Any) -> None:
    from shop import joined

    joined.start()


def worker_exit(server: Any, worker: Any) -> None:
    from shop import joined

    joined.stop()
