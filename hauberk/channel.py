"""The one channel through which a process calls the whole mesh.

The contract is the address: the control plane routes by the service in the method's path. Core watches the
credential files itself, so this channel lives as long as the process.
"""

import grpc

from hauberk.bootstrap import TARGET
from hauberk.certs.credentials import Credentials
from hauberk.options import CHANNEL

# Named for tests, but the only way to give a channel its own bootstrap: environment and file are one for a
# whole process, and a process may hold several identities.
_BOOTSTRAP = "grpc.TEST_ONLY_DO_NOT_USE_IN_PROD.xds_bootstrap_config"


def xds_channel(bootstrap: str, credentials: Credentials) -> grpc.aio.Channel:
    """A channel to the mesh described by `bootstrap` (JSON).

    `credentials` are used where the control plane sends a cluster without TLS: such a call then fails on the
    server's name, where it would otherwise go out in the clear.
    """
    secure = grpc.xds_channel_credentials(credentials.channel_credentials())
    return grpc.aio.secure_channel(TARGET, secure, options=[*CHANNEL, (_BOOTSTRAP, bootstrap)])
