"""Callbacks come first on the loop, and publishing goes on all the same."""

from gateway.precedence import Precedence


class Loop:
    """A loop whose turns take as long as given, the last one again and again, pauses beside; counts them."""

    def __init__(self, *turns_s):
        self.turns_s = list(turns_s)
        self.now_s, self.turns = 100.0, 0
        self.ours = Precedence(self.turn, lambda: self.now_s)

    async def turn(self, pause_s):
        self.now_s += pause_s + (self.turns_s.pop(0) if len(self.turns_s) > 1 else self.turns_s[0])
        self.turns += 1

    async def given_way(self, worked_s):
        """Return (turns, seconds) that others had."""
        began_s, before = self.now_s, self.turns
        await self.ours.give_way(worked_s)
        return self.turns - before, round(self.now_s - began_s, 6)


async def test_a_loop_that_has_nothing_to_do_is_not_waited_for():
    """A backlog goes out as fast as it can while nobody calls; others get one turn after each batch."""
    assert await Loop(0.00005).given_way(0.005) == (1, 0.00005)


async def test_callbacks_get_three_times_what_publishing_took():
    """Under load most of the processor is theirs."""
    turns, waited_s = await Loop(0.004).given_way(0.005)

    assert turns == 4
    assert 0.015 <= waited_s < 0.02


async def test_callbacks_that_wait_for_the_disk_are_still_about():
    """A short turn between full ones is no end of the load: what waits comes back with the next sync."""
    _, waited_s = await Loop(0.004, 0.0001).given_way(0.005)

    assert 0.015 <= waited_s < 0.017


async def test_a_load_that_has_ended_is_not_waited_for():
    """A tenth of a second after the last full turn the backlog goes out at full speed."""
    loop = Loop(0.004, 0.00005)
    await loop.given_way(0.005)
    loop.now_s += 0.2

    assert await loop.given_way(0.005) == (1, 0.00005)


async def test_publishing_never_waits_for_long():
    """A batch that took seconds, such as one of large bodies on a thread, is not made up for by seconds."""
    _, waited_s = await Loop(0.01).given_way(5.0)

    assert 0.09 <= waited_s < 0.11
