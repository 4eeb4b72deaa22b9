"""A server with an engine and no way out of its network comes up from a bundle, whose every byte counts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.depth import nightly

pytestmark = nightly("a second first start and gigabytes of images")


@contextmanager
def flipped_byte(file: Path, offset: int) -> Iterator[None]:
    def flip() -> None:
        with file.open("r+b") as stream:
            stream.seek(offset)
            byte = stream.read(1)[0]
            stream.seek(offset)
            stream.write(bytes([byte ^ 1]))

    flip()
    try:
        yield
    finally:
        flip()


def test_the_host_has_no_way_out(offline) -> None:
    assert offline.inside("ip route show default")[1] == ""
    assert offline.inside("docker image ls -q")[1] == ""


def test_one_flipped_byte_is_refused_by_name(offline, bundle) -> None:
    with flipped_byte(bundle, bundle.stat().st_size // 2):
        run = offline.run("site")
    assert run.rc != 0
    assert "images.tar is damaged" in "\n".join(run.failures()), run.failures()
    assert offline.inside("docker image ls -q")[1] == ""


def test_it_comes_up_from_the_bundle(offline) -> None:
    offline.converge()
    assert offline.smoke()[0] == 200


def test_a_second_run_changes_nothing(offline) -> None:
    before = offline.fingerprint()
    run = offline.converge()
    assert run.changed == 0, run.changed_tasks()
    assert offline.fingerprint() == before
