"""That which signs SVIDs: a root, an intermediate under it, and the roll from one root to the next.

A root's key signs one intermediate and is then forgotten: an intermediate that leaks can only be answered
by a new root (we publish no revocation lists), so a kept root key would be of use to thieves alone. The
folder:

    authority.json            trust domain, mesh id, the roots and their states; replaced whole
    roots.pem                 every trusted root, for those who pin them before they know anybody
    r000001/                  root.pem, intermediate.pem, intermediate.key.pem
    lock                      held while a root is prepared, activated or retired, or nothing of it may be

Roots roll in three steps, each of which every process must have seen before the next: `prepare` makes a new
root, trusted from now on; `activate` lets it sign; `retire` ends the trust in the old one.
"""

import ipaddress
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

from hauberk.certs import keys, pem, profile
from hauberk.certs.bundle import Bundle
from hauberk.certs.errors import AuthorityError, BundleError, ChainError
from hauberk.certs.identity import SpiffeId, issuable, parse_dns_name, parse_trust_domain
from hauberk.certs.roots import Ledger, Root, RootFolder, RootState, Signer
from hauberk.certs.svid import Svid

CONTROL_NAME = "control"


class Authority:
    """Signs for one trust domain. `now` is always aware UTC; methods may block on the disk or the CPU."""

    def __init__(self, files: RootFolder, passphrase: bytes | None) -> None:
        """Use `create` or `load`."""
        self._files = files
        self._passphrase = passphrase
        self._adopt(files.load(passphrase))

    @classmethod
    def create(
        cls,
        folder: Path,
        trust_domain: str,
        *,
        now: datetime,
        passphrase: bytes | None = None,
        dns_names: Iterable[str] = (),
    ) -> Self:
        """A new authority in `folder`, with one active root. Raises AuthorityError if there is one already.

        `dns_names` lie outside the trust domain and are permitted beside it: names the control plane is
        dialled by.
        """
        parse_dns_name(parse_trust_domain(trust_domain))
        extra = tuple(parse_dns_name(name) for name in dns_names)
        files = RootFolder(folder)
        signer = _new_signer(trust_domain, extra, RootState.ACTIVE, now)
        files.create(trust_domain, secrets.token_hex(16), extra, signer, passphrase)
        return cls(files, passphrase)

    @classmethod
    def load(cls, folder: Path, passphrase: bytes | None = None) -> Self:
        """The authority in `folder`. Raises AuthorityError, StoreError or KeyRefused if it is not usable."""
        return cls(RootFolder(folder), passphrase)

    @classmethod
    @contextmanager
    def standing_still(
        cls, folder: Path, passphrase: bytes | None = None, *, wait_s: float = 2.0
    ) -> Iterator[Self]:
        """The authority in `folder`, which nobody rolls while the block runs; raises what `load` raises.

        AuthorityError too, if a roll goes on for `wait_s` seconds.
        """
        files = RootFolder(folder)
        with files.held(wait_s):
            yield cls(files, passphrase)

    def copy_to(self, folder: Path, passphrase: bytes | None) -> None:
        """The same authority in another folder, its keys under another passphrase, or none.

        Raises AuthorityError if an authority lives there.
        """
        RootFolder(folder).fill(self._ledger, passphrase)

    def mend(self) -> bool:
        """Write roots.pem again if it is lost, damaged or of a roll that was cut off; whether it was."""
        return self._files.mend(self._ledger, self._passphrase)

    @property
    def trust_domain(self) -> str:
        return self._ledger.trust_domain

    @property
    def mesh_id(self) -> str:
        """32 hex digits, made with the authority: tells an emptied store from a new one."""
        return self._ledger.mesh_id

    @property
    def control_id(self) -> SpiffeId:
        """The control plane's name; the only one whose SVID may carry further DNS names and IP addresses."""
        return SpiffeId.of(self.trust_domain, CONTROL_NAME)

    @property
    def bundle(self) -> Bundle:
        """Every root that is trusted, prepared and retiring ones too, with their intermediates."""
        return self._bundle

    def roots(self, now: datetime) -> list[Root]:
        """The roots as people see them, oldest first, and whether they have expired at `now`."""
        return [signer.describe(now) for signer in self._ledger.signers]

    def sign(
        self,
        csr_der: bytes,
        spiffe_id: SpiffeId,
        *,
        lifetime: timedelta,
        now: datetime,
        dns_names: Iterable[str] = (),
        ip_addresses: Iterable[str] = (),
    ) -> bytes:
        """The PEM chain, leaf first, that names the request's key `spiffe_id`; ends no later than its
        signer.

        Raises CsrRefused (a broken or asking request), IdentityError (a name we do not give) or
        AuthorityError (another trust domain, further names for anybody but `control_id`, a signer out of
        its time).
        """
        public_key = keys.check_csr(csr_der)
        extra = self._extra_names(spiffe_id, tuple(dns_names), tuple(map(str, ip_addresses)))
        if lifetime < timedelta(seconds=1):
            raise AuthorityError(f"lifetime is under a second: {lifetime.total_seconds():g} s")
        signer = self._active
        leaf = profile.leaf(
            public_key,
            spiffe_id,
            issuer=signer.intermediate,
            issuer_key=signer.key,
            now=now,
            lifetime=lifetime,
            dns_names=extra[0],
            ip_addresses=extra[1],
        )
        chain = (leaf, signer.intermediate)
        try:
            self._bundle.verify(chain, now=now)
        except ChainError as error:
            raise AuthorityError(f"would sign what nobody accepts: {error}") from error
        return pem.write(chain)

    def issue(
        self,
        spiffe_id: SpiffeId,
        *,
        lifetime: timedelta,
        now: datetime,
        dns_names: Iterable[str] = (),
        ip_addresses: Iterable[str] = (),
    ) -> Svid:
        """A new key and its SVID, made here; raises what `sign` raises."""
        key = keys.generate()
        chain_pem = self.sign(
            keys.csr(key),
            spiffe_id,
            lifetime=lifetime,
            now=now,
            dns_names=dns_names,
            ip_addresses=ip_addresses,
        )
        return Svid.parse(chain_pem, keys.to_pem(key))

    def prepare(self, now: datetime) -> None:
        """Make the next root and its intermediate, trusted from now on; the old one still signs."""
        with self._files.rolling(self._ledger, self._passphrase) as ledger:
            if ledger.having(RootState.PREPARED):
                raise AuthorityError("a root is prepared already: the next step is activate")
            if ledger.having(RootState.RETIRING):
                raise AuthorityError("an old root is still trusted: the next step is retire")
            signer = _new_signer(ledger.trust_domain, ledger.dns_names, RootState.PREPARED, now)
            self._adopt(self._files.add(ledger, signer, self._passphrase))

    def activate(self, now: datetime) -> None:
        """Let the prepared root sign; the old one retires: it signs no more and is trusted still."""
        with self._files.rolling(self._ledger, self._passphrase) as ledger:
            if not ledger.having(RootState.PREPARED):
                step = "retire" if ledger.having(RootState.RETIRING) else "prepare"
                raise AuthorityError(f"no root is prepared: the next step is {step}")
            moves = {RootState.PREPARED: RootState.ACTIVE, RootState.ACTIVE: RootState.RETIRING}
            self._adopt(self._files.move(ledger, moves, now))

    def retire(self, now: datetime) -> None:
        """End the trust in the old root: what it signed is refused from now on."""
        with self._files.rolling(self._ledger, self._passphrase) as ledger:
            if not ledger.having(RootState.RETIRING):
                step = "activate" if ledger.having(RootState.PREPARED) else "prepare"
                raise AuthorityError(f"no root is retiring: the next step is {step}")
            self._adopt(self._files.drop(ledger, RootState.RETIRING))

    def _adopt(self, ledger: Ledger) -> None:
        """Replace what we sign with and whom we trust, whole: `sign` in another thread sees old or new."""
        active = ledger.having(RootState.ACTIVE)[0]
        anchors = tuple(signer.root for signer in ledger.signers)
        try:
            bundle = Bundle(
                {ledger.trust_domain: anchors}, tuple(signer.intermediate for signer in ledger.signers)
            )
        except BundleError as error:
            raise AuthorityError(f"authority's own roots are unusable: {error}") from error
        self._ledger, self._bundle, self._active = ledger, bundle, active

    def _extra_names(
        self, spiffe_id: SpiffeId, dns_names: tuple[str, ...], ip_addresses: tuple[str, ...]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        if spiffe_id.trust_domain != self.trust_domain:
            raise AuthorityError(f"not our trust domain: {spiffe_id.trust_domain!r:.99}")
        if spiffe_id != self.control_id:
            issuable(spiffe_id)
            if dns_names or ip_addresses:
                raise AuthorityError(f"further names are for {self.control_id} only, not for {spiffe_id}")
        for name in dns_names:
            if parse_dns_name(name) != spiffe_id.dns_name and name.endswith(f".{self.trust_domain}"):
                raise AuthorityError(f"dns name could be a workload's: {name!r}")
        for address in ip_addresses:
            _check_ip_address(address)
        return dns_names, ip_addresses


def _check_ip_address(address: str) -> None:
    try:
        ipaddress.ip_address(address)
    except ValueError as error:
        raise AuthorityError(f"not an ip address: {address!r:.99}") from error


def _new_signer(trust_domain: str, dns_names: tuple[str, ...], state: RootState, now: datetime) -> Signer:
    root_key, key = keys.generate(), keys.generate()
    root = profile.root(root_key, trust_domain, now=now, dns_names=dns_names)
    intermediate = profile.intermediate(
        key.public_key(), trust_domain, issuer=root, issuer_key=root_key, now=now, dns_names=dns_names
    )
    return Signer(state=state, since=now, root=root, intermediate=intermediate, key=key)
