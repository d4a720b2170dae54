"""Conformance: errors, the library's and the application's."""

from __future__ import annotations

import threading

import bigmachine as bm
from bigmachine.testing.conformance.base import Conformance, raised
from bigmachine.testing.conformance.services import Refusal, Worker


class ErrorConformance(Conformance):
    """Typed errors, and exceptions as they were raised."""

    def test_an_unknown_service_or_method_is_an_error_of_its_own(self) -> None:
        machine = self.one()
        missing = self.error(machine.call("Nobody.same", 1), bm.NoSuchServiceError)
        assert isinstance(missing, LookupError)
        self.error(machine.call("Worker.nothing", 1), bm.NoSuchMethodError)
        self.error(machine.call("Worker._hidden"), bm.NoSuchMethodError)
        assert self.result(machine.call(Worker.same, 1)) == 1

    def test_a_generator_method_is_not_called(self) -> None:
        raised(bm.UsageError, lambda: self.one().call("Worker.count", 3))

    def test_wrong_arguments_raise_what_they_raise_anywhere(self) -> None:
        error = self.error(self.one().call("Worker.same"), TypeError)
        assert bm.is_remote(error)
        assert not isinstance(error, bm.BigmachineError)

    def test_an_applications_error_arrives_as_it_was_raised(self) -> None:
        error = self.error(self.one().call(Worker.refuse, 42), Refusal)
        assert (error.code, error.why) == (42, "it said so")
        assert bm.is_remote(error)

    def test_causes_and_notes_arrive(self) -> None:
        error = self.error(self.one().call(Worker.refuse_because), Refusal)
        assert isinstance(error.__cause__, KeyError)
        assert error.__cause__.args == ("the cause",)
        assert "a note" in error.__notes__

    def test_groups_arrive(self) -> None:
        group = self.error(self.one().call(Worker.refuse_together), ExceptionGroup)
        first, second = group.exceptions
        assert isinstance(first, Refusal)
        assert first.code == 1
        assert isinstance(second, ValueError)

    def test_an_error_that_cannot_be_rebuilt_is_told(self) -> None:
        error = self.error(self.one().call(Worker.refuse_stubbornly), bm.RemoteError)
        assert "Stubborn" in error.type_name
        assert "I do not travel" in str(error)
        assert "refuse_stubbornly" in error.traceback

    def test_stop_iteration_arrives_as_a_remote_error(self) -> None:
        error = self.error(self.one().call(Worker.stop_iteration), bm.RemoteError)
        assert "StopIteration" in error.type_name

    def test_an_error_keeps_its_type_over_two_hops(self) -> None:
        first, second = self.two()
        error = self.error(first.call(Worker.tell, second, 9), Refusal)
        assert error.code == 9
        assert bm.is_remote(error)

    def test_an_argument_that_cannot_be_sent_is_named(self) -> None:
        machine = self.one()
        error = self.error(machine.call(Worker.same, {"deep": [threading.Lock()]}), bm.PayloadError)
        assert "deep" in error.path
        assert not bm.is_remote(error)
        assert self.result(machine.call(Worker.same, 1)) == 1

    def test_a_reply_that_cannot_be_sent_is_named_and_the_machine_lives(self) -> None:
        machine = self.one()
        error = self.error(machine.call(Worker.answer_a_lock), bm.PayloadError)
        assert "inner" in error.path
        assert self.result(machine.call(Worker.same, 1)) == 1
