"""What the service manager is told when: news at once, signs of life in time, the line for people not too often."""

from __future__ import annotations

import math

import pytest

from supervisor.herald import NEWS_MAX, RETRY_S, STATUS_PAUSE_S, Reports, servers_line

READY = "READY=1"
PING = "WATCHDOG=1"


class Talk:
    """Reports, a clock, and a manager that listens or not."""

    def __init__(self, watchdog_s: float = 0.0) -> None:
        self.reports = Reports(watchdog_s)
        self.now = 1000.0
        self.line = "all is well"
        self.listens = True
        self.heard: list[str] = []

    def speak(self, passed_s: float = 0.0) -> str:
        self.now += passed_s
        message = self.reports.due(self.now, lambda: self.line)
        if message:
            self.reports.sent(self.now, ok=self.listens)
            if self.listens:
                self.heard.append(message)
        return message


def test_news_are_told_at_once_and_once():
    talk = Talk()
    talk.reports.tell(READY)

    assert talk.reports.next_due == 0.0
    assert talk.speak() == READY
    assert talk.speak(100) == ""
    assert talk.reports.next_due == math.inf


def test_the_line_for_people_changes_at_most_once_in_a_while_and_the_last_one_is_told():
    talk = Talk()
    for line in ("a", "b", "c"):
        talk.line = line
        talk.reports.status_changed()
        talk.speak()
    assert talk.heard == ["STATUS=a"]
    assert talk.reports.next_due == talk.now + STATUS_PAUSE_S

    talk.speak(STATUS_PAUSE_S)
    assert talk.heard == ["STATUS=a", "STATUS=c"]


def test_a_line_that_is_the_same_again_is_not_told_again():
    talk = Talk()
    talk.reports.status_changed()
    talk.speak()
    talk.reports.status_changed()

    assert talk.speak(STATUS_PAUSE_S) == ""
    assert talk.reports.next_due == math.inf


def test_signs_of_life_come_twice_in_the_time_allowed():
    talk = Talk(watchdog_s=10.0)

    assert talk.speak() == PING
    assert talk.speak(4.9) == ""
    assert talk.reports.next_due == pytest.approx(talk.now + 0.1)
    assert talk.speak(0.2) == PING


def test_without_a_watchdog_there_are_no_signs_of_life():
    assert Talk().speak(1e6) == ""


def test_what_did_not_get_through_is_told_again_later():
    talk = Talk(watchdog_s=10.0)
    talk.listens = False
    talk.reports.tell(READY)
    talk.reports.status_changed()
    wanted = f"{READY}\nSTATUS=all is well\n{PING}"

    assert talk.speak() == wanted
    assert talk.speak() == "", "not again at once"
    assert talk.reports.next_due == talk.now + RETRY_S
    talk.listens = True
    assert talk.speak(RETRY_S) == wanted
    assert talk.speak(1.0) == ""


def test_what_a_deaf_manager_is_owed_is_bounded():
    talk = Talk()
    for _ in range(10 * NEWS_MAX):
        talk.reports.tell(READY)

    assert talk.speak().count(READY) == NEWS_MAX


def test_while_another_version_speaks_this_one_is_silent():
    talk = Talk(watchdog_s=10.0)
    talk.reports.silent = True
    talk.reports.tell(READY)
    talk.reports.status_changed()

    assert talk.speak(100) == ""
    assert talk.reports.next_due == math.inf


def test_the_last_word_is_said_until_it_gets_through_and_nothing_after_it():
    talk = Talk(watchdog_s=10.0)
    talk.speak()
    talk.listens = False
    talk.reports.tell_last("MAINPID=7")
    talk.reports.tell("STOPPING=1")
    talk.reports.status_changed()

    assert talk.speak() == "MAINPID=7"
    talk.listens = True
    assert talk.speak(RETRY_S) == "MAINPID=7"
    assert talk.speak(100) == ""
    assert talk.reports.next_due == math.inf


def test_servers_are_counted_best_first():
    statuses = ["error", "healthy", "unknown", "healthy", "proxy_error", "unhealthy"]

    assert servers_line(statuses) == "6 servers: 2 healthy, 1 unhealthy, 1 error, 1 proxy_error, 1 unknown"
    assert servers_line(["healthy"]) == "1 server: 1 healthy"
    assert servers_line([]) == "no servers"
