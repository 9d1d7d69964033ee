"""The watchdog ends a run in which no step finishes, and no other."""

import threading
import time

from fmrifm.processes import LOST_EXIT_CODE
from fmrifm.runs.watchdog import STEPPING, WAITING, Watchdog


def make(folder, left: threading.Event, codes: list[int]) -> Watchdog:
    """A watchdog of a fifth of a second, whose end is noted."""

    def leave(code: int) -> None:
        codes.append(code)
        left.set()

    return Watchdog(0.2 / 60, folder, leave, tick=0.02)


def test_a_step_that_does_not_finish_leaves_its_stacks(tmp_path, capsys):
    left, codes = threading.Event(), []
    watchdog = make(tmp_path / "hang", left, codes)
    watchdog.note(7, WAITING)
    assert left.wait(20) and codes == [LOST_EXIT_CODE]
    text = (tmp_path / "hang" / "process-0-step-7.txt").read_text()
    assert "waiting for a batch" in text and "test_a_step_that_does_not_finish" in text
    error = capsys.readouterr().err
    assert "step 7, waiting for a batch" in error and "same command continues" in error


def test_steps_and_long_evaluations_are_left_alone(tmp_path):
    left, codes = threading.Event(), []
    watchdog = make(tmp_path / "hang", left, codes)
    for step in range(15):
        watchdog.note(step, STEPPING)
        time.sleep(0.04)
    with watchdog.paused():
        time.sleep(0.5)
    watchdog.close()
    assert not left.is_set() and not (tmp_path / "hang").exists()
