"""A progress bar on a terminal's standard error, which looks by itself at how far the work has come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


@contextmanager
def bar(done: Callable[[], int], total: int | None) -> Iterator[Bar | None]:
    """Show *done* of *total* while the block runs; None, and nothing is shown, off a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    with Bar(done, total, console) as shown:
        yield shown


class Bar(Progress):
    """Asks *done* whenever it is drawn, on a thread of its own."""

    def __init__(self, done: Callable[[], int], total: int | None, console: Console) -> None:
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}/s"))
        # Why not redirected: rich would move what is meant for a file behind standard output to the terminal.
        super().__init__(
            *columns, TimeElapsedColumn(), console=console, transient=True, redirect_stdout=False,
            redirect_stderr=False,
        )  # fmt: skip
        self._done = done
        self.add_task("done", total=total, rate="0")

    def get_renderables(self) -> Iterable[RenderableType]:
        for task in self.tasks:
            rate = self._done() / task.elapsed if task.elapsed else 0.0
            self.update(task.id, completed=self._done(), rate=f"{rate:,.0f}")
        return super().get_renderables()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Take the bar away while the block prints."""
        self.stop()
        yield
        self.start()
