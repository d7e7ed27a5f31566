"""When core has to be told that the control plane is back. (What core says is held by test_keepalive.py.)"""

import grpc

from hauberk.absence import LONG_S, Absence

CLOSED, SILENT = "Socket closed", "Stream removed (ping timeout)"


def error(details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details
    )


def test_who_was_never_away_is_not_back() -> None:
    assert not Absence().over(1000.0)


def test_a_restart_is_noticed_by_core_itself() -> None:
    absence = Absence()
    absence.lost(error(CLOSED), 10.0)
    absence.lost(error("Connection refused"), 20.0)
    assert not absence.over(10.0 + LONG_S)


def test_a_silence_is_not() -> None:
    absence = Absence()
    absence.lost(error(SILENT), 10.0)
    absence.lost(error(CLOSED), 11.0)
    assert absence.over(12.0)


def test_a_long_absence_is_noticed_too_late() -> None:
    absence = Absence()
    absence.lost(error(CLOSED), 10.0)
    absence.lost(error(CLOSED), 10.0 + LONG_S)
    assert absence.over(10.1 + LONG_S)


def test_each_absence_counts_for_itself() -> None:
    absence = Absence()
    absence.lost(error(SILENT), 10.0)
    assert absence.over(11.0)
    absence.lost(error(CLOSED), 100.0)
    assert not absence.over(101.0)
