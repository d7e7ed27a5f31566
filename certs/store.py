"""Credentials on disk: a folder a generation, and one symbolic link to the latest.

gRPC's file watchers drop what works when a key and a certificate on disk do not match, so the two are never
replaced one by one:

    g000007/    key.pem chain.pem bundle.pem intermediates.pem anchors/<trust domain>
    current ->  g000007
    lock        held by the process that enrols and rotates for all that share the folder

bundle.pem holds all anchors in one file, for gRPC; anchors/ says whose each one is.
"""

import os
import re
from pathlib import Path

from hauberk.certs import files, pem
from hauberk.certs.bundle import Bundle, parse_certificates
from hauberk.certs.credentials import Credentials
from hauberk.certs.errors import BundleError, StoreError, SvidError
from hauberk.certs.svid import Svid

KEPT = 3
"""Generations that stay: readers that follow the link just before it moves still find their files."""
_GENERATION = re.compile(r"g([0-9]{6,})", re.ASCII)


class CredentialStore:
    """The credentials of one workload on one machine, in a folder for nobody else. Blocks on the disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._current = folder / "current"

    @property
    def key_path(self) -> Path:
        return self._current / "key.pem"

    @property
    def chain_path(self) -> Path:
        return self._current / "chain.pem"

    @property
    def bundle_path(self) -> Path:
        return self._current / "bundle.pem"

    def lock(self) -> files.Lock | None:
        """The right to write here, or None while another has it. Ends with `release` or with the process."""
        files.make_folder(self._folder)
        return files.lock(self._folder / "lock")

    def write(self, credentials: Credentials) -> Path:
        """A new generation, on disk and current when this returns; its folder.

        Raises StoreError, and leaves the generation before it current, if anything fails. Hold the lock.
        """
        files.make_folder(self._folder)
        generations = self._generations()
        final = self._folder / f"g{(generations[-1] if generations else 0) + 1:06d}"
        fresh = self._folder / ".generation.new"
        files.remove_folder(fresh)
        _write_generation(fresh, credentials)
        files.rename_folder(fresh, final)
        files.point(self._current, final.name)
        for old in generations[: 1 - KEPT]:
            files.remove_folder(self._folder / f"g{old:06d}")
        return final

    def load(self) -> Credentials | None:
        """The current credentials, or None if none were ever written.

        Raises StoreError naming the file and the remedy if they are loose, torn or do not fit together.
        Expired ones are returned: that is for the caller to see.
        """
        if not os.path.lexists(self._current):
            return None
        files.check_folder(self._folder)
        with files.told(self._current, "cannot read"):
            name = str(self._current.readlink())
        if not _GENERATION.fullmatch(name):
            raise StoreError(f"{self._current} leads out of its folder, to {name!r:.99}: remove it")
        return _read_generation(self._folder / name)

    def _generations(self) -> list[int]:
        with files.told(self._folder, "cannot read"):
            names = [path.name for path in self._folder.iterdir()]
        return sorted(int(found[1]) for name in names if (found := _GENERATION.fullmatch(name)))


def _write_generation(folder: Path, credentials: Credentials) -> None:
    bundle = credentials.bundle
    files.make_folder(folder)
    files.create(folder / "key.pem", credentials.svid.key_pem)
    files.create(folder / "chain.pem", credentials.svid.chain_pem)
    files.create(folder / "bundle.pem", bundle.pem())
    files.create(folder / "intermediates.pem", pem.write(bundle.intermediates))
    files.make_folder(folder / "anchors")
    for trust_domain, roots in bundle.anchors.items():
        files.create(folder / "anchors" / trust_domain, pem.write(roots))
    with files.told(folder, "cannot write"):
        files.sync_folder(folder / "anchors")


def _read_generation(folder: Path) -> Credentials:
    anchors_folder = folder / "anchors"
    files.check_folder(folder)
    files.check_folder(anchors_folder)
    with files.told(anchors_folder, "cannot read"):
        trust_domains = sorted(path.name for path in anchors_folder.iterdir())
    try:
        svid = Svid.parse(files.read(folder / "chain.pem"), files.read(folder / "key.pem"))
        bundles = [Bundle.parse(name, files.read(anchors_folder / name)) for name in trust_domains]
        intermediates = parse_certificates(files.read(folder / "intermediates.pem"))
        anchors = {domain: roots for bundle in bundles for domain, roots in bundle.anchors.items()}
        bundle = Bundle(anchors, intermediates)
    except (SvidError, BundleError) as error:
        raise StoreError(f"{folder} is damaged: {error}: remove it and enrol again") from error
    if files.read(folder / "bundle.pem") != bundle.pem():
        raise StoreError(f"{folder} is damaged: bundle.pem and anchors differ: remove it and enrol again")
    return Credentials(svid, bundle)
