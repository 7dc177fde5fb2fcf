"""The folder of a run that others made."""

from pathlib import Path

import pytest
from small_sweeps import small_sweep

from ambient_sweep import trust
from ambient_sweep.errors import UserError
from ambient_sweep.sweep.run import resume_sweep
from ambient_sweep.sweep.space.file import write_sweep


@pytest.mark.parametrize("name", ["stages", "trials/a/state", "trials/a/log.txt"])
def test_nothing_is_written_or_removed_behind_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    link, mine = tmp_path / "run" / name, tmp_path / "mine"
    link.parent.mkdir(parents=True)
    mine.mkdir()
    link.symlink_to(mine)
    write_sweep(small_sweep(tmp_path), tmp_path / "run" / "sweep.yaml")
    with pytest.raises(UserError) as caught:
        resume_sweep(tmp_path / "run")
    assert str(caught.value) == (
        f"{link}: is a symbolic link, behind which this command would write and remove files; if you trust where it comes "
        "from, give --trust"
    )
    monkeypatch.setenv(trust.VARIABLE, "1")
    with pytest.raises(UserError, match=r"\.begun\.json: missing or damaged"):
        resume_sweep(tmp_path / "run")
