"""Callbacks come first on the loop, and publishing goes on all the same."""

from gateway.turns import give_way


class Loop:
    """A loop whose turns take as long as given, the last one again and again; counts them."""

    def __init__(self, *turns_s):
        self.turns_s = list(turns_s)
        self.now_s, self.turns = 100.0, 0

    async def turn(self):
        self.now_s += self.turns_s.pop(0) if len(self.turns_s) > 1 else self.turns_s[0]
        self.turns += 1

    async def given_way(self, worked_s):
        """Return (turns, seconds) that others had."""
        began_s = self.now_s
        await give_way(worked_s, self.turn, lambda: self.now_s)
        return self.turns, round(self.now_s - began_s, 6)


async def test_a_loop_that_has_nothing_to_do_is_not_waited_for():
    """A backlog goes out as fast as it can while nobody calls; others get one turn after each batch."""
    assert await Loop(0.00005).given_way(0.005) == (1, 0.00005)


async def test_callbacks_get_three_times_what_publishing_took():
    """Under load most of the processor is theirs."""
    assert await Loop(0.004).given_way(0.005) == (4, 0.016)


async def test_a_pause_in_the_load_ends_the_wait():
    """As soon as the callbacks that waited are served, publishing goes on."""
    assert await Loop(0.004, 0.0001).given_way(0.005) == (2, 0.0041)


async def test_publishing_never_waits_for_long():
    """A batch that took seconds, such as one of large bodies on a thread, is not made up for by seconds."""
    turns, waited_s = await Loop(0.01).given_way(5.0)

    assert turns == 9
    assert 0.09 <= waited_s < 0.11
