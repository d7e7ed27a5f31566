"""The xDS bootstrap: where gRPC core finds the control plane, and the files it takes our identity from.

Sources: gRFC A27 (bootstrap), A29 (certificate providers), A53 (ignore_resource_deletion), A65 (mTLS to the
control plane). Core watches the files behind the store's `current` link, so that channels follow a rotation
without being made anew.
"""

import json
from collections.abc import Iterable

from hauberk.certs.identity import SpiffeId
from hauberk.certs.rotation import Schedule
from hauberk.certs.store import CredentialStore

TARGET = "xds:///mesh"
"""The one target of a process: each further one would cost a stream, a connection and two threads."""
CERTIFICATE_PROVIDER = "mesh"
"""The name by which the control plane's clusters ask for our identity."""


def bootstrap(
    *,
    control_targets: Iterable[str],
    node_id: str,
    spiffe_id: SpiffeId,
    store: CredentialStore,
    schedule: Schedule,
) -> str:
    """The bootstrap as JSON. `node_id` is for people: who asks is told by the certificate."""
    watched = {
        "certificate_file": str(store.chain_path.absolute()),
        "private_key_file": str(store.key_path.absolute()),
        "ca_certificate_file": str(store.bundle_path.absolute()),
        "refresh_interval": f"{schedule.watcher_refresh:g}s",
    }
    server = {
        "channel_creds": [{"type": "tls", "config": watched}],
        # A control plane that knows less than before must not take living routes away.
        "server_features": ["xds_v3", "ignore_resource_deletion"],
    }
    return json.dumps(
        {
            "xds_servers": [{"server_uri": target, **server} for target in control_targets],
            "node": {"id": node_id, "cluster": spiffe_id.name},
            "certificate_providers": {
                CERTIFICATE_PROVIDER: {"plugin_name": "file_watcher", "config": watched}
            },
        }
    )
