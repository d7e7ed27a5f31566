"""A log under a fault that lasts: it says what is the matter, and does not fill the disk."""

import logging

import pytest

from hauberk.services.sparing import EVERY_S, Sparing


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def log(time: Time, monkeypatch: pytest.MonkeyPatch) -> logging.Logger:
    sparing = Sparing(clock=time)
    logger = logging.getLogger("tests.sparing")
    monkeypatch.setattr(logger, "filters", [sparing])
    return logger


def test_the_same_again_is_kept_back_and_counted(
    log: logging.Logger, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(100):
        log.warning("it fails: %s", number)
    time.now += EVERY_S
    log.warning("it fails: %s", "still")
    assert caplog.messages == ["it fails: 0", "it fails: still (and 99 more such)"]


def test_another_kind_and_another_level_are_not_kept_back(
    log: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    log.warning("it fails: %s", 1)
    log.warning("something else: %s", 2)
    log.error("it fails: %s", 3)
    assert caplog.messages == ["it fails: 1", "something else: 2", "it fails: 3"]


def test_what_comes_seldom_is_said_each_time(
    log: logging.Logger, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        log.warning("again")
        time.now += EVERY_S
    assert caplog.messages == ["again"] * 3
