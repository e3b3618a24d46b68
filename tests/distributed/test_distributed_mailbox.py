"""Events of a worker reach the driver in order, whatever Ray starts first."""

import asyncio
import itertools

import pytest

from rayloom.distributed.mailbox import Mailbox


def drained(mailbox):
    return [event["number"] for event in asyncio.run(mailbox.drain())]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_events_of_a_sender_keep_their_order(order):
    mailbox = Mailbox()
    for number in order:
        asyncio.run(mailbox.post([{"number": number}], "a", number))
    assert drained(mailbox) == [0, 1, 2]


def test_one_that_is_missing_holds_back_its_own_sender_only():
    mailbox = Mailbox()
    asyncio.run(mailbox.post([{"number": 1}], "a", 1))
    asyncio.run(mailbox.post([{"number": 7}], "b", 0))
    assert drained(mailbox) == [7]
    assert not asyncio.run(mailbox.arrived("a", 2, wait_s=0.05))
    asyncio.run(mailbox.post([{"number": 0}], "a", 0))
    assert asyncio.run(mailbox.arrived("a", 2))
    assert drained(mailbox) == [0, 1]
