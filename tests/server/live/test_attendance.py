"""When a call counts as unattended."""

from server.live.attendance import Attendance
from server.wire.ids import ConversationId, TenantId

ONE = (TenantId("t"), ConversationId("c1"))
OTHER = (TenantId("t"), ConversationId("c2"))


def test_a_call_without_its_agent_is_alarmed_once_after_a_while_and_cleared_once() -> None:
    attendance = Attendance(after_s=10)
    assert attendance.look({ONE: False, OTHER: True}, 0) == []
    assert attendance.look({ONE: False, OTHER: True}, 9.9) == []
    assert attendance.look({ONE: False, OTHER: True}, 10) == [(ONE, False)]
    assert attendance.look({ONE: False, OTHER: True}, 30) == []
    assert attendance.num_unattended == 1
    assert attendance.look({ONE: True, OTHER: True}, 31) == [(ONE, True)]
    assert attendance.look({ONE: True, OTHER: True}, 50) == []
    assert attendance.num_unattended == 0


def test_a_page_that_is_loaded_anew_is_no_alarm() -> None:
    attendance = Attendance(after_s=10)
    for now_s in range(0, 100, 5):
        assert attendance.look({ONE: now_s % 10 == 0}, now_s) == []


def test_a_call_that_ends_leaves_nothing_behind() -> None:
    attendance = Attendance(after_s=1)
    attendance.look({ONE: False}, 0)
    assert attendance.look({ONE: False}, 1) == [(ONE, False)]
    assert attendance.look({}, 2) == []
    assert attendance.num_unattended == 0
    assert attendance.look({ONE: False}, 3) == []
