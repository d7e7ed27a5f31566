"""The roster as it is saved, so that a restart loses neither endpoints nor routes.

It is no truth, only a memory: replicas announce themselves again. So a database that fails delays the saving
and nothing else.
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping

from sqlalchemy import Connection, Engine, Table, and_, delete, insert, or_, select

from hauberk.certs.errors import CertsError
from hauberk.certs.identity import SpiffeId
from hauberk.certs.watch import Watch
from hauberk.interceptors.errors import Refused
from hauberk.services.control.contracts import Announced, read_contracts
from hauberk.services.control.errors import ask
from hauberk.services.control.roster import State
from hauberk.services.control.snapshot import Replica, Status
from hauberk.services.control.tables import contracts, replicas
from hauberk.services.database import reading

GATHERED_S = 0.1
"""Changes are gathered for so long before they are saved."""
RETRY_S = 2.0

Row = Mapping[str, object]
Rows = dict[tuple[str, str], Row]

_log = logging.getLogger(__name__)


class RosterStore:
    """Loads and saves a roster's state. `load` comes first and once; `save` writes what has changed since."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._saved_replicas: Rows = {}
        self._saved_contracts: Rows = {}

    def load(self) -> State:
        """What was saved last. Entries that this build cannot read are left out and logged."""
        with reading(self._engine) as connection:
            for row in connection.execute(select(replicas)).mappings():
                self._saved_replicas[row["spiffe_id"], row["replica"]] = dict(row)
            for row in connection.execute(select(contracts)).mappings():
                self._saved_contracts[row["service"], row["spiffe_id"]] = dict(row)
        known: dict[tuple[SpiffeId, str], Announced] = {}
        for (service, name), saved in self._saved_contracts.items():
            try:
                [announced] = read_contracts(_bytes(saved["descriptor"]), [service])
                known[SpiffeId.parse(name), service] = announced
            except (Refused, CertsError) as error:
                _log.warning("saved contract %s is left out: %s", service, error)
        listed = [_replica(row, known) for row in self._saved_replicas.values()]
        return State(
            tuple(replica for replica in listed if replica is not None),
            tuple((key[0], announced) for key, announced in known.items()),
        )

    def save(self, state: State) -> None:
        """Make the database say `state`, in one transaction."""
        wanted_replicas = {(str(each.spiffe_id), each.replica): _replica_row(each) for each in state.replicas}
        wanted_contracts: Rows = {
            (announced.contract.service, str(spiffe_id)): {
                "service": announced.contract.service,
                "spiffe_id": str(spiffe_id),
                "descriptor": announced.descriptor,
            }
            for spiffe_id, announced in state.contracts
        }
        with self._engine.begin() as connection:
            _replace(connection, replicas, self._saved_replicas, wanted_replicas)
            _replace(connection, contracts, self._saved_contracts, wanted_contracts)
        self._saved_replicas, self._saved_contracts = wanted_replicas, wanted_contracts

    async def keep_saved(self, states: Watch[State]) -> None:
        """Save each change, a moment after it. Runs until cancelled."""
        async for state in states.changes():
            while True:
                try:
                    await ask(self.save, state)
                    break
                except Refused:
                    await asyncio.sleep(RETRY_S)
                    state = states.value
            await asyncio.sleep(GATHERED_S)

    async def save_last(self, state: State) -> None:
        """Save once; what fails is logged."""
        with contextlib.suppress(Refused):
            await ask(self.save, state)


def _replace(connection: Connection, table: Table, saved: Rows, wanted: Rows) -> None:
    """Turn the saved rows of `table` into the wanted ones."""
    stale = [key for key, row in saved.items() if wanted.get(key) != row]
    fresh = [dict(row) for key, row in wanted.items() if saved.get(key) != row]
    first, second = table.primary_key.columns
    for start in range(0, len(stale), 200):
        some = stale[start : start + 200]
        connection.execute(delete(table).where(or_(*(and_(first == a, second == b) for a, b in some))))
    if fresh:
        connection.execute(insert(table), fresh)


def _replica_row(replica: Replica) -> Row:
    return {
        "spiffe_id": str(replica.spiffe_id),
        "replica": replica.replica,
        "address": replica.address,
        "status": replica.status.value,
        "agent": replica.agent,
        "svid_expires_at": replica.svid_expires_at,
        "contracts": "\n".join(replica.contracts),
    }


def _replica(row: Row, known: Mapping[tuple[SpiffeId, str], Announced]) -> Replica | None:
    services = tuple(str(row["contracts"]).split())
    try:
        spiffe_id = SpiffeId.parse(str(row["spiffe_id"]))
        return Replica(
            spiffe_id=spiffe_id,
            replica=str(row["replica"]),
            address=str(row["address"]),
            status=Status(str(row["status"])),
            agent=str(row["agent"]),
            svid_expires_at=row["svid_expires_at"],  # type: ignore[arg-type]
            contracts=services,
            policy_versions={service: known[spiffe_id, service].contract.version for service in services},
        )
    except (KeyError, ValueError, CertsError) as error:
        _log.warning("saved replica %s#%s is left out: %r", row["spiffe_id"], row["replica"], error)
        return None


def _bytes(value: object) -> bytes:
    return bytes(value) if isinstance(value, (bytes, memoryview)) else b""
