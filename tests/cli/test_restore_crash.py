"""A restore killed at any step leaves the old mesh, the new one, or one that does not start: no third."""

import json
import subprocess
import sys
from itertools import groupby
from pathlib import Path

from hauberk.cli.state import SUBFOLDERS
from tests.cli.saved import Saved


def test_a_restore_killed_at_any_step_is_undone_done_or_done_again(tmp_path: Path) -> None:
    mesh = Saved.make(tmp_path / "mesh")
    backup = mesh.backup()
    mesh.write("second")
    (tmp_path / "work").mkdir()
    command = [
        sys.executable,
        "-m",
        "tests.cli.restore_crash",
        *map(str, (mesh.folder, backup, tmp_path / "work")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(reports) > 15
    assert [left for left, _ in groupby(report["left"] for report in reports)] == [
        "first second",
        "half",
        "first",
    ]
    assert {report["healed"] for report in reports} == {"first"}
    for report in reports:
        assert report["old"], "what was replaced is somewhere still"
        assert set(report["entries"]) <= {"ca", "replaced", *SUBFOLDERS}, "no litter"
