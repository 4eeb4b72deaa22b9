"""Programs inside containers; the client runs them here, so their limit is kept by the real `timeout`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from ansible.module_utils.n8n_platform.engine_exec import TIMED_OUT, Inside, again_where_lost


@pytest.fixture
def inside(tmp_path: Path) -> Inside:
    client = tmp_path / "docker"
    # docker --host unix://<socket> exec [-i] <container> <program>...
    client.write_text('#!/bin/sh\nshift 3\n[ "$1" = -i ] && shift\nshift\nexec "$@"\n')
    client.chmod(0o755)
    return Inside("postgres", docker=str(client))


def test_a_program_says_what_it_says(inside: Inside) -> None:
    result = inside.run(["sh", "-c", "echo yes; echo no >&2; exit 3"])
    assert (result.code, result.stdout, result.stderr) == (3, "yes\n", "no\n")


def test_files_go_in_and_out_without_being_held(inside: Inside, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"\xff" * 70000)
    result = inside.run(["cat"], stdin=tmp_path / "in", stdout=tmp_path / "out")
    assert (result.code, result.stdout) == (0, "")
    assert (tmp_path / "out").read_bytes() == b"\xff" * 70000


def test_a_program_may_give_way_to_the_service(inside: Inside) -> None:
    giving_way = replace(inside, nice=19)
    assert (inside.run(["nice"]).stdout, giving_way.run(["nice"]).stdout) == (f"{os.nice(0)}\n", "19\n")


def test_a_program_gets_no_input_of_ours(inside: Inside) -> None:
    assert inside.run(["cat"]).stdout == ""


def test_one_that_takes_too_long_is_ended_and_named_late(inside: Inside) -> None:
    result = inside.run(["sh", "-c", "echo half >&2; exec sleep 60"], 1)
    assert result.code in TIMED_OUT
    assert result.stderr == "not done within its time limit of 1 s"


LOST = (126, "OCI runtime exec failed: exec failed: unable to start container process: read init-p", "")


def test_an_exec_that_the_runtime_lost_is_repeated_and_no_other() -> None:
    answers = [LOST, (0, "words", ""), (1, "", "psql: no such database")]
    asked: list[str] = []

    def run(argv: list[str], stdin: str) -> tuple[int, str, str]:
        asked.append(stdin)
        return answers[len(asked) - 1]

    repeated = again_where_lost(run)
    assert repeated(["psql"], "SELECT 1") == (0, "words", "")
    assert asked == ["SELECT 1", "SELECT 1"]
    assert repeated(["psql"], "SELECT 2")[0] == 1
    assert len(asked) == 3
