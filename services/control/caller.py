"""Who makes the call being served."""

from hauberk.certs.identity import LeafIdentity
from hauberk.interceptors.call import current_call
from hauberk.interceptors.errors import Unidentified


def caller() -> LeafIdentity:
    """Who makes the call being served. Raises Unidentified, should a policy have let nobody in."""
    call = current_call()
    if call is None or call.peer is None:
        raise Unidentified("this method is for callers with a certificate", reason="NO_CERTIFICATE")
    return call.peer
