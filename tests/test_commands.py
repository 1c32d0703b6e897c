"""Commands that tests fork are like those that a user starts."""

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ENCODER, ENVIRONMENT, Command, assert_equal, lines, run, weights, without_speed, write

SHOW = """
import multiprocessing, os, sys
print(multiprocessing.get_start_method())
print(sorted({"torch", "accelerate", "pipelines.training.loop"} & {*sys.modules}), sys.argv[1:], os.getcwd())
print(os.environ.get("ONLY_HERE"), os.getpgid(0) == os.getpid(), file=sys.stderr)
sys.exit(7)
"""


def test_a_forked_command_has_its_own_place_streams_and_code_and_imports_nothing_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "show.py"
    script.write_text(SHOW)
    first = Command(str(script), "a", "b", variables={"ONLY_HERE": "yes"}, new_session=True)
    again = Command(str(script))
    out, err = first.communicate()
    assert out.splitlines() == [
        multiprocessing.get_start_method(),  # of its own workers
        f"['accelerate', 'pipelines.training.loop', 'torch'] ['a', 'b'] {tmp_path}",
    ]
    assert err == "yes True\n"
    assert again.communicate()[1] == "None False\n"
    assert first.returncode == first.poll() == first.wait() == 7


def test_a_forked_command_is_ended_by_a_signal_and_not_by_a_time_limit_of_waiting(tmp_path: Path) -> None:
    script = tmp_path / "wait.py"
    script.write_text("import signal; print('waits', flush=True); signal.pause()")
    command = Command(str(script))
    with pytest.raises(subprocess.TimeoutExpired):
        command.wait(0.1)
    assert command.poll() is None
    command.send_signal(signal.SIGTERM)
    assert command.wait() == -signal.SIGTERM


def test_a_forked_command_cannot_write_files_above_its_limit(tmp_path: Path) -> None:
    script = tmp_path / "write.py"
    script.write_text(f"open({os.fspath(tmp_path / 'file')!r}, 'wb', buffering=0).write(bytes(5000))\n")
    assert run(str(script), largest_file=4999).returncode == 0 and (tmp_path / "file").stat().st_size == 4999
    assert run(str(script)).returncode == 0 and (tmp_path / "file").stat().st_size == 5000


@pytest.mark.slow
def test_a_forked_command_computes_the_bits_of_one_that_a_user_starts(synthetic: Path, tmp_path: Path) -> None:
    config = write(tmp_path / "teacher.yaml", {
        "data": str(synthetic / "train"), "views": {"rgb": {"modality": "rgb", "size": 32}},
        "student": {"view": "rgb", "encoder": ENCODER},
        "train": {"epochs": 2, "batch_size": 32, "workers": 1, "log_every": 1},
    })  # fmt: skip
    words = ["supervise", str(config)]
    started = subprocess.run([sys.executable, "-m", "pipelines", *words, f"output={tmp_path / 'started'}"],
                             env=ENVIRONMENT, capture_output=True, text=True, timeout=240, check=False)  # fmt: skip
    forked = run(*words, f"output={tmp_path / 'forked'}")
    assert (forked.returncode, started.returncode) == (0, 0), forked.stderr + started.stderr
    assert_equal(weights(tmp_path / "forked"), weights(tmp_path / "started"))
    assert without_speed(lines(tmp_path / "forked")) == without_speed(lines(tmp_path / "started"))
    assert forked.stdout.count("\n") == started.stdout.count("\n")
