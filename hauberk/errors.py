"""What can keep a process out of the mesh, or end its stay.

    MeshError
    ├── SettingsError       a setting that is missing, unknown or wrong
    ├── JoinFailed          no identity: nothing usable on disk, and enrolment refused or out of reach
    ├── ListenFailed        an address that cannot be listened on
    ├── AnnounceRefused     the control plane will not send callers here
    ├── MembershipEnded     our own identity is of no use any more: revoked, or expired and not renewable
    └── JoinedBeforeFork    a mesh used in another process than the one that joined

`str()` is one line: what, where, what to do. No message ever holds a token or a key.
"""


class MeshError(Exception):
    """Anything that keeps a process out of the mesh; `hauberk.run` prints it as one line and exits 1."""


class SettingsError(MeshError):
    """A setting that is missing, unknown or wrong; the message names it, where it stands, and the remedy."""


class JoinFailed(MeshError):
    """No identity could be had."""


class ListenFailed(MeshError):
    """The address cannot be listened on."""


class AnnounceRefused(MeshError):
    """The control plane will not send callers here."""


class MembershipEnded(MeshError):
    """Revoked, or expired without a way to renew: the process has stopped serving."""


class JoinedBeforeFork(MeshError):
    """A mesh used in a process forked from the one that joined it: gRPC would hang there."""
