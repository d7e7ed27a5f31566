"""Reading from a service's database, in threads of its own.

Who writes may have to wait for another's lock: seconds, on SQLite as long as a process that was frozen in the
middle of a write holds it. Reads wait for no lock, and must not wait for a thread behind those that do.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_READERS = ThreadPoolExecutor(6, thread_name_prefix="reading")


async def look_up(query: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
    """What `query` returns or raises; it only reads."""
    return await asyncio.get_running_loop().run_in_executor(_READERS, partial(query, *arguments, **keywords))
