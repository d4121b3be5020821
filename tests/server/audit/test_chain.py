from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.audit.chain import BrokenChain, Entry, Head, link, links, verify, without


def entry(number: int, tenant_id: str = "t") -> Entry:
    return Entry(
        at_ms=1000.0 + number,
        tenant_id=tenant_id,
        who="agent:a1",
        roles=("agent",),
        action="read",
        what=f"call:{number}",
    )


def chain(num: int, tenants: str = "t") -> list[bytes]:
    head, lines = Head(), []
    for number in range(num):
        head, line = link(head, entry(number, tenants[number % len(tenants)]))
        lines.append(line)
    return lines


def test_a_chain_that_nobody_touched_holds() -> None:
    lines = chain(20)
    head = verify(lines)
    assert head.number == 20
    assert verify(lines, noted=head.hash) == head
    assert [found.what for _, found in links(lines) if found] == [f"call:{n}" for n in range(20)]


def test_nothing_is_a_chain() -> None:
    assert verify([]) == Head()


@given(data=st.data())
def test_whatever_is_done_to_it_is_found(data: st.DataObject) -> None:
    lines = chain(8)
    noted = verify(lines).hash
    at = data.draw(st.integers(0, 7))
    match data.draw(st.sampled_from(["remove", "repeat", "swap", "change", "blank", "cut the end"])):
        case "remove":
            del lines[at]
        case "repeat":
            lines.insert(at, lines[at])
        case "swap":
            other = data.draw(st.integers(0, 7).filter(lambda other: other != at))
            lines[at], lines[other] = lines[other], lines[at]
        case "change":
            position = data.draw(st.integers(0, len(lines[at]) - 2))
            changed = bytearray(lines[at])
            changed[position] ^= data.draw(st.integers(1, 127))
            lines[at] = bytes(changed)
        case "blank":
            lines[at] = without(next(found for number, (found, _) in enumerate(links(lines)) if number == at))
        case "cut the end":
            del lines[at:]
    with pytest.raises(BrokenChain):
        verify(lines, noted)


def test_a_chain_made_anew_holds_but_is_not_the_one_that_was_noted() -> None:
    noted = verify(chain(8)).hash
    forged = chain(8, "u")
    assert verify(forged).number == 8
    with pytest.raises(BrokenChain, match="made anew"):
        verify(forged, noted)


def test_an_export_without_other_tenants_entries_still_holds_and_says_nothing_of_them() -> None:
    lines = chain(10, "tu")
    exported = [
        line if found and found.tenant_id == "t" else without(one)
        for line, (one, found) in zip(lines, links(lines), strict=True)
    ]
    assert verify(exported, is_export=True) == verify(lines)
    assert b'"u"' not in b"".join(exported)
    exported[0] = exported[0].replace(b"call:0", b"call:9")
    with pytest.raises(BrokenChain, match="line 1"):
        verify(exported, is_export=True)
