"""When boto3 is to give a call up."""

from __future__ import annotations

import pytest

from bigmachine.systems.ec2.api import ATTEMPTS, FIRST_ATTEMPTS, Patience


def test_it_ends_soon_where_nothing_has_ever_answered() -> None:
    patience, lost = Patience(), ConnectionRefusedError()
    for attempts in range(1, FIRST_ATTEMPTS):
        patience(attempts=attempts, caught_exception=lost, response=None)
    with pytest.raises(ConnectionRefusedError):
        patience(attempts=FIRST_ATTEMPTS, caught_exception=lost, response=None)


def test_it_is_left_to_boto3_once_there_was_an_answer_whatever_it_was() -> None:
    patience = Patience()
    patience(attempts=1, caught_exception=None, response=("503", {}))
    patience(attempts=ATTEMPTS, caught_exception=ConnectionRefusedError(), response=None)
