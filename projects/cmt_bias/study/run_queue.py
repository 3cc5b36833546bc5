"""Runs one after the other, or several at a time."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from .launch_command import JobSlot
from .run_state import read_state
from .study_run import RunPlan, StudyRun, is_finished

POLL_SECONDS = 0.5


@dataclass
class QueueStatus:
    """Where a queue of runs stands.

    Attributes:
        total: Number of runs.
        kept: Labels of runs that earlier runners had finished.
        done: Labels of runs that this one finished.
        failed: Why, by label.
        active: Runs that go on now.
        durations: Seconds of each finished run, in all its stages.
        num_slots: Runs at a time.
    """

    total: int
    num_slots: int
    kept: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    active: list[StudyRun] = field(default_factory=list)
    durations: list[float] = field(default_factory=list)

    @property
    def num_ended(self) -> int:
        """Runs that are over, well or not."""
        return len(self.kept) + len(self.done) + len(self.failed)

    def seconds_left(self) -> float | None:
        """Estimate of the time until all is done; None while nothing tells."""
        per_run = self._seconds_per_run()
        if per_run is None:
            return None
        waiting = self.total - self.num_ended - len(self.active)
        work = waiting + sum(1.0 - run.fraction for run in self.active)
        return work * per_run / max(1, min(self.num_slots, waiting + len(self.active)))

    def _seconds_per_run(self) -> float | None:
        """Mean of finished runs; before the first, what the active ones promise."""
        known = self.durations or [
            run.seconds / run.fraction for run in self.active if run.fraction > 0
        ]
        return sum(known) / len(known) if known else None


class Observer(Protocol):
    """Is told what happens in a queue."""

    def started(self, run: StudyRun, status: QueueStatus) -> None:
        """A run begins, or goes on after a cut."""

    def ended(self, run: StudyRun, status: QueueStatus) -> None:
        """A run is over; with ``run.failure`` if it failed."""

    def waiting(self, status: QueueStatus) -> None:
        """Called about twice a second."""


def run_all(
    plans: Sequence[RunPlan],
    slots: Sequence[JobSlot],
    make_run: Callable[[RunPlan, JobSlot], StudyRun],
    observer: Observer,
    poll_seconds: float = POLL_SECONDS,
) -> QueueStatus:
    """Carry out all plans that are not finished; a failing one does not stop the others.

    Args:
        plans: In their order.
        slots: Places for runs at the same time.
        make_run: Makes the run of a plan in a slot.
        observer: Is told what happens.
        poll_seconds: Time between looks at the processes.

    Returns:
        How it ended. On an exception, KeyboardInterrupt too, all processes are ended first.
    """
    status = QueueStatus(len(plans), len(slots))
    waiting: list[RunPlan] = []
    free = list(slots)
    for plan in plans:
        if is_finished(plan):
            status.kept.append(plan.label)
            status.durations.append(_recorded_seconds(plan))
        else:
            waiting.append(plan)
    try:
        while waiting or status.active:
            while waiting and free:
                run = make_run(waiting.pop(0), free.pop(0))
                status.active.append(run)
                run.start()
                observer.started(run, status)
            for run in [run for run in status.active if run.step()]:
                status.active.remove(run)
                free.append(run.slot)
                _note_end(run, status)
                observer.ended(run, status)
            observer.waiting(status)
            if status.active:
                time.sleep(poll_seconds)
    except BaseException:
        for run in status.active:
            run.stop()
        raise
    return status


def _note_end(run: StudyRun, status: QueueStatus) -> None:
    if run.failure:
        status.failed[run.plan.label] = run.failure
    else:
        status.done.append(run.plan.label)
        status.durations.append(_recorded_seconds(run.plan))


def _recorded_seconds(plan: RunPlan) -> float:
    state = read_state(plan.folder)
    return sum(state.seconds.values()) if state else 0.0
