"""The commands of the guide, as they stand there, on this environment."""

import re
import subprocess
from contextlib import ExitStack

import pytest

from tests.support.deployment import ROOT, Deployment
from tests.support.docs import doc_block


def run(command: str, words: str = "") -> subprocess.CompletedProcess[str]:
    """words: what is typed."""
    return subprocess.run(
        ["bash", "-euc", command], cwd=ROOT, input=words, capture_output=True, text=True, check=False
    )


def test_make_up_again_changes_nothing_and_ends_with_the_report(core: Deployment) -> None:
    before = core.fingerprint()
    done = run(doc_block("up").strip() + " ENV=../molecule/core/inventory")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "changed=0" in done.stdout
    assert "playbooks/site.yml" in done.stdout, "make prints the command that it runs"
    assert f"https://n8n.{core.domain}:{core.https_port}" in done.stdout
    assert f"{core.name} on localhost: healthy" in done.stdout
    assert "Does not work" not in done.stdout
    works = done.stdout.partition("Works\n")[2].partition("\n\n")[0]
    # A slot has its worker's name, and its runner none of its own.
    running = {name.removeprefix("n8n-") for name in core.containers() if "-runner-" not in name}
    assert [name for name in running if name not in works] == []
    assert core.secret("host", "n8n_owner_password") not in done.stdout
    for path in ("secrets/host/n8n_owner_password", "secrets/host/traefik_operator_password", "ca.crt"):
        assert str(core.data_root / path) in done.stdout and (core.data_root / path).is_file()
    assert re.search(rf"Next: make status ENV={core.name}, make verify .*docs/guide.md", done.stdout)
    assert core.fingerprint() == before


def test_compose_by_hand(core: Deployment) -> None:
    done = run(doc_block("by-hand").replace("/local/", f"/{core.name}/"))
    assert done.returncode == 0, done.stderr
    assert "n8n-main" in done.stdout


def test_a_service_by_hand_is_left_alone_where_nothing_has_changed(core: Deployment) -> None:
    before = core.fingerprint()
    done = run(doc_block("compose-by-hand").replace("/local/", f"/{core.name}/"))
    assert done.returncode == 0, done.stderr
    assert "n8n-main" in done.stdout
    assert core.fingerprint() == before


@pytest.mark.parametrize(
    ("command", "typed", "says"),
    [
        (doc_block("psql"), "SELECT name FROM workflow_entity;\n", "Platform smoke test"),
        (doc_block("redis-cli"), "ACL WHOAMI\nLLEN bull:jobs:wait\n", "admin\n0\n"),
        (doc_block("pgbackrest-by-hand"), "", "stanza: n8n"),
    ],
    ids=["psql", "redis-cli", "pgbackrest"],
)
def test_the_stores_by_hand(core: Deployment, command: str, typed: str, says: str) -> None:
    """As they stand there, but without a terminal."""
    done = run(command.replace("<project>", core.project).replace(" -it ", " -i "), typed)
    assert done.returncode == 0, done.stderr
    assert says in done.stdout


def test_status_says_what_works_and_changes_nothing(core: Deployment) -> None:
    """What it says of a broken environment: molecule/pair."""
    # On a host that could not carry another deployment, too: that is when one looks.
    status = core.run("status", platform_preflight_disk_free_gb=10**6)
    assert status.rc == 0, status.failures()
    assert status.changed == 0
    assert f"{core.name} on localhost: healthy" in status.report
    assert "redis-queue, traefik" in status.report and "2 healthy, 2 wanted" in status.report


def make(core: Deployment, command: str) -> str:
    """What a command of the guide's table says, as it stands there; it leaves everything alone."""
    assert f"\n| `{command}` |" in (ROOT / "docs/guide.md").read_text()
    before = core.fingerprint()
    done = run(f"{command} ENV=../molecule/core/inventory")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert core.fingerprint() == before
    return done.stdout


def test_make_status(core: Deployment) -> None:
    said = make(core, "make status")
    assert f"{core.name} on localhost: healthy" in said
    assert "changed=0" in said


def test_make_logs_of_one_service(core: Deployment) -> None:
    said = make(core, "make logs ARGS='-e platform_logs_services=n8n-main'")
    services = "|".join(map(re.escape, core.containers()))
    assert re.findall(rf"^ +({services}):", said, re.MULTILINE) == ["n8n-main"]


def test_make_support(core: Deployment) -> None:
    bundle = core.data_root / "support" / f"{core.project}.tar.gz"
    bundle.unlink(missing_ok=True)
    assert str(bundle) in make(core, "make support")
    listed = subprocess.run(["tar", "-tzf", bundle], capture_output=True, text=True, check=True).stdout
    assert re.search("logs/n8n-main.log$", listed, re.MULTILINE)


def test_verify_names_containers_that_were_changed_by_hand(core: Deployment) -> None:
    before = core.fingerprint()
    main, worker = (core.containers()[f"n8n-{name}"] for name in ("main", "worker-1"))
    memory, swap = (main.attrs["HostConfig"][limit] for limit in ("Memory", "MemorySwap"))
    with ExitStack() as back:
        strange = core.engine.networks.create(f"{core.project}-strange", internal=True)
        back.callback(strange.remove)
        strange.connect(worker)
        back.callback(strange.disconnect, worker)
        back.callback(main.update, mem_limit=memory, memswap_limit=swap)
        main.update(mem_limit=memory + 2**20, memswap_limit=-1)
        verify = core.run("verify")
    assert verify.rc != 0
    failure = "\n".join(verify.failures())
    assert f"service n8n-main: memory is {memory + 2**20}, the release says {memory}" in failure
    assert re.search(rf"service n8n-worker-1: networks is [^;]*{core.project}-strange", failure), failure
    assert failure.count("the release says") == 2, "nothing else differs"
    assert re.search(
        r"^ +FAIL +Every container runs as released.*service n8n-main: memory", verify.report, re.MULTILINE
    )
    assert core.fingerprint() == before
    assert core.containers()["n8n-main"].attrs["HostConfig"]["Memory"] == memory
