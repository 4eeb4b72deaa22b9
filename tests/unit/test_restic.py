"""What each of restic's exit codes becomes; restic itself is run by tests/backup."""

from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.n8n_platform.backup import BackupError, Definition, Exit
from ansible.module_utils.n8n_platform.engine_run import Result
from ansible.module_utils.n8n_platform.restic import PASSWORD, Restic


class Shots:
    def __init__(self, code: int) -> None:
        self.code = code

    def run(self, *_: Any, **__: Any) -> Result:
        return Result(self.code, "", "its own words")


def restic(root: Path, code: int) -> Restic:
    secret = root / "host" / PASSWORD
    secret.parent.mkdir(exist_ok=True)
    secret.write_text("x")
    values: dict[str, Any] = dict.fromkeys(
        ("environment", "project", "volumes_root", "state_root", "backup_root", "images", "retention"), ""
    )
    more = {"timezone": "UTC", "secrets_root": str(root), "items": [], "images": {"backup": "backup:1"}}
    return Restic(Definition({**values, **more}), Shots(code))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "becomes", "words"),
    [
        (1, Exit.FAILED, "failed"),
        (2, Exit.FAILED, "crashed"),
        (3, Exit.FAILED, "could not read everything"),
        (10, Exit.FAILED, "found no repository"),
        (11, Exit.LOCKED, "found the repository locked"),
        (12, Exit.WRONG_KEY, f"the secret {PASSWORD} is not its password"),
        (130, Exit.INTERRUPTED, "was interrupted"),
        (77, Exit.FAILED, "ended with 77"),
    ],
)
def test_each_exit_code_has_its_meaning(tmp_path: Path, code: int, becomes: Exit, words: str) -> None:
    with pytest.raises(BackupError, match="its own words") as refused:
        restic(tmp_path, code).unlock()
    assert refused.value.code == becomes and words in str(refused.value)


@pytest.mark.parametrize("code", [1, 3, 11, 130])
def test_a_check_that_ended_in_any_way_but_well_has_found_something(tmp_path: Path, code: int) -> None:
    assert restic(tmp_path, code).check("1/7", 60) == [f"check ended with {code}: its own words"]


@pytest.mark.parametrize("code", [10, 12])
def test_a_check_without_a_repository_or_key_is_an_error(tmp_path: Path, code: int) -> None:
    with pytest.raises(BackupError):
        restic(tmp_path, code).check("1/7", 60)
