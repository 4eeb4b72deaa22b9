"""A server whose Debian, Redis, Traefik and OpenBao come from a registry under upstream's names."""

from __future__ import annotations

from tests.support.depth import nightly

pytestmark = nightly("n8n and Postgres built on another Debian, and one more first start")


def test_it_comes_up_from_what_upstream_is_called(upstream) -> None:
    assert "images from upstream" in upstream.converge().stdout
    assert upstream.smoke()[0] == 200


def test_it_passes_the_same_verify(upstream) -> None:
    run = upstream.run("verify")
    assert run.rc == 0, "\n".join([*run.failures(), run.stdout[-4000:]])


def test_nothing_runs_that_was_built_from_packages_where_upstream_has_it(upstream, pinned) -> None:
    """By what only the images in the registry have: an entry point that ends at once."""
    form = "{{.Config.Image}} {{.Image}}"
    running = upstream.inside(f"docker ps -q | xargs docker inspect --format '{form}'")[1].split()
    images = dict(zip(running[::2], running[1::2], strict=True))
    for component in ("redis", "traefik", "openbao"):
        (image,) = {image for name, image in images.items() if name.startswith(f"n8n-platform/{component}:")}
        own = upstream.inside(f"docker image inspect --format '{{{{json .Config.Entrypoint}}}}' {image}")[1]
        assert own.strip() == '["false"]', (component, own)
        assert pinned[component]["digest"].startswith("sha256:")


def test_a_second_run_changes_nothing(upstream) -> None:
    before = upstream.fingerprint()
    run = upstream.converge()
    assert run.changed == 0, run.changed_tasks()
    assert upstream.fingerprint() == before
