"""Operators' overrides as they are kept: the truth, which every process is told.

Blocks on the database, as store.py does: call it through `errors.ask`.
"""

from datetime import datetime

from google.protobuf.message import DecodeError
from sqlalchemy import Engine, delete, insert, select

from hauberk.interceptors.errors import PolicyError
from hauberk.interceptors.overrides import Overrides
from hauberk.protos.hauberk.policy.v1 import override_pb2
from hauberk.services.control.tables import overrides
from hauberk.services.database import reading


class OverrideStore:
    """The overrides of one mesh."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def load(self) -> Overrides:
        """Raises PolicyError for one that this build cannot enforce: none is left out, it may be all that
        keeps somebody from a method.
        """
        with reading(self._engine) as connection:
            rows = connection.scalars(select(overrides.c.override).order_by(overrides.c.method)).all()
        try:
            return Overrides.of(override_pb2.Override.FromString(row) for row in rows)
        except DecodeError as error:
            raise PolicyError(f"an override in the store cannot be read: {error}") from error

    def replace(self, wanted: Overrides, *, changed_by: str, now: datetime) -> None:
        """Keep these and no others; who said one and when stays, where it is the same as before."""
        with self._engine.begin() as connection:
            kept = {row.method: row.override for row in connection.execute(select(overrides))}
            same = {name for name, each in wanted.by_method.items() if kept.get(name) == each.spelled}
            connection.execute(delete(overrides).where(overrides.c.method.not_in(same)))
            new = [each for name, each in wanted.by_method.items() if name not in same]
            if new:
                connection.execute(
                    insert(overrides),
                    [
                        {
                            "method": each.method,
                            "override": each.spelled,
                            "changed_by": changed_by,
                            "changed_at": now,
                        }
                        for each in new
                    ],
                )
