"""What a process keeps of the calls it serves: access log and audit log, put together as it is told."""

import sys
from pathlib import Path

from hauberk.interceptors.access_log import AccessLog
from hauberk.interceptors.audit import AuditLog
from hauberk.interceptors.records import Records, Sink


class Recording:
    """`records` and `audit` are for servers; `close`, which may wait for files, when they have stopped."""

    def __init__(self, service_name: str, *, access_log: bool, audit_dir: Path) -> None:
        self.audit = AuditLog(audit_dir, service_name)
        sinks: list[Sink] = [self.audit]
        if access_log:
            sinks.append(AccessLog(sys.stderr, service_name))
        self.records = Records(sinks)

    def close(self) -> None:
        self.records.close()
        self.audit.close()
