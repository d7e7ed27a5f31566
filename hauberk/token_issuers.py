"""The issuers whose access tokens this process believes: what a file says of them, and their keys kept fresh.

    [tokens.NAME]
    issuer = "https://login.shop.test"                  the `iss` of its tokens
    jwks = "https://login.shop.test/jwks.json"          or a file, beside this one
    algorithm = "ES256"                                 or "RS256"
    typ = "at+jwt"
    audience = "https://api.shop.test"                  left out: our own SPIFFE ID
    max_lifetime_seconds = 900

Other tables of the file are others'. Keys are renewed in the background and never while a call waits: every
REFRESH_S, AGAIN_S after a failure, and when a token names a key that is not there, but never twice within
AGAIN_S. While that fails the last good ones hold for TTL_S; then no token of the issuer is good any more.
"""

import asyncio
import difflib
import logging
import time
import tomllib
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from hauberk import jwks
from hauberk.errors import SettingsError
from hauberk.interceptors.issuers import MAX_LIFETIME_S, Issuer, KeyRing, KeySet, KeysRefused
from hauberk.interceptors.token_check import Tokens

_log = logging.getLogger(__name__)

REFRESH_S = 300.0
AGAIN_S = 10.0
TTL_S = 3600.0
FIRST_S = 2.0
"""How long a server waits for keys before it is announced: calls that come before them are refused."""

_TABLES = "tokens"


class Declared(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One [tokens.NAME] table."""

    issuer: str
    jwks: str
    algorithm: str = "ES256"
    typ: str = "at+jwt"
    audience: str = ""
    max_lifetime_seconds: int = MAX_LIFETIME_S

    def to_issuer(self, audience: str) -> Issuer:
        """`audience` is used where the table has none. Raises ValueError naming what is wrong."""
        if "://" in self.jwks:
            jwks.check_url(self.jwks)
        elif not self.jwks or not self.jwks.isprintable():
            raise ValueError("jwks is neither a URL nor a file")
        return Issuer(
            name=self.issuer,
            audience=self.audience or audience,
            algorithm=self.algorithm,
            typ=self.typ,
            max_lifetime_s=self.max_lifetime_seconds,
        )

    def source(self, folder: Path) -> Callable[[], bytes]:
        """What reads or fetches the key set, and may block; a file is looked for from `folder`."""
        if "://" in self.jwks:
            return lambda: jwks.fetch(self.jwks)
        return lambda: jwks.read(folder / self.jwks)


@dataclass(frozen=True, slots=True)
class Believed:
    """What a file says, checked; where relative files are looked for."""

    tables: dict[str, Declared]
    folder: Path

    @classmethod
    def of(cls, path: Path | None) -> "Believed | None":
        """None where there is no file. Raises SettingsError: one line that names file, table and remedy."""
        if path is None:
            return None
        where = f"HAUBERK_TOKEN_ISSUERS: {path}"
        try:
            found = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise SettingsError(f"{where} cannot be read: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"{where} is not TOML: {error}") from None
        for key in found.keys() - {_TABLES}:
            if difflib.get_close_matches(key, [_TABLES], n=1):
                raise SettingsError(f"{where}: unknown table [{key}]: did you mean [{_TABLES}.NAME]?")
        tables = found.get(_TABLES)
        if not isinstance(tables, dict) or not tables:
            raise SettingsError(f"{where} has no table [{_TABLES}.NAME]: write one for each issuer")
        return cls(declared(tables, where), path.parent)


def declared(tables: dict[str, object], where: str) -> dict[str, Declared]:
    """The tables by name, each checked. Raises SettingsError; `where` is what its message begins with."""
    checked: dict[str, Declared] = {}
    for name, table in tables.items():
        try:
            checked[name] = msgspec.convert(table, Declared)
            checked[name].to_issuer("spiffe://any/any")
        except ValueError as error:
            what = str(error).replace(" - at `$.", " - at `")
            raise SettingsError(f"{where}: [{_TABLES}.{name}] {what[:1].lower()}{what[1:]}") from None
    names = [table.issuer for table in checked.values()]
    for issuer in names:
        if names.count(issuer) > 1:
            raise SettingsError(f"{where}: two tables for one issuer: {issuer!r:.99}")
    return checked


class KeyKeeper:
    """Keeps the keys of one issuer fresh while `keep` runs."""

    def __init__(
        self,
        ring: KeyRing,
        source: Callable[[], bytes],
        *,
        refresh_s: float = REFRESH_S,
        again_s: float = AGAIN_S,
        ttl_s: float = TTL_S,
    ) -> None:
        """`source` is called in a thread and may block; it raises jwks.NotFetched."""
        self.ring = ring
        self.tried = asyncio.Event()
        """Set after the first attempt, whatever came of it."""
        self._source = source
        self._refresh_s = refresh_s
        self._again_s = again_s
        self._ttl_s = ttl_s

    async def keep(self) -> None:
        """Renew the keys, for ever."""
        while True:
            began, version = time.monotonic(), self.ring.wanted.version
            self.ring.asked()
            renewed = await self._renew(began)
            self.tried.set()
            try:
                async with asyncio.timeout(self._refresh_s if renewed else self._again_s):
                    await self.ring.wanted.next(version)
            except TimeoutError:
                pass
            await asyncio.sleep(max(0.0, began + self._again_s - time.monotonic()))

    async def _renew(self, began: float) -> bool:
        name = self.ring.issuer.name
        try:
            found = KeySet.parse(await asyncio.to_thread(self._source), self.ring.issuer.algorithm)
        except (jwks.NotFetched, KeysRefused) as error:
            left = max(0.0, self.ring.good_until - time.monotonic())
            _log.warning("keys of %s were not renewed, those known hold %.0f s more: %s", name, left, error)
            return False
        except Exception:
            _log.exception("keys of %s were not renewed", name)
            return False
        if found.ignored:
            _log.info("%d keys of %s are not used: weak, or for something else", found.ignored, name)
        self.ring.renew(found, began + self._ttl_s)
        return True


class KeyKeepers:
    """All issuers a process believes."""

    def __init__(self, believed: Believed, audience: str) -> None:
        """`audience` is our own SPIFFE ID."""
        self._keepers = [
            KeyKeeper(KeyRing(table.to_issuer(audience)), table.source(believed.folder))
            for table in believed.tables.values()
        ]
        self.tokens = Tokens(keeper.ring for keeper in self._keepers)

    async def keep(self) -> None:
        """Keep every issuer's keys fresh, for ever."""
        await _all(keeper.keep() for keeper in self._keepers)

    async def tried(self) -> None:
        """Wait until keys were asked for once everywhere, at most FIRST_S."""
        try:
            async with asyncio.timeout(FIRST_S):
                await _all(keeper.tried.wait() for keeper in self._keepers)
        except TimeoutError:
            _log.warning("keys of access tokens have not come within %g s: their calls are refused", FIRST_S)


async def _all(works: Iterable[Coroutine[Any, Any, object]]) -> None:
    async with asyncio.TaskGroup() as tasks:
        for work in works:
            tasks.create_task(work)
