"""Areas of tests: whatever may be left out belongs to one, and each names files that exist."""

import re
from fnmatch import fnmatch

from contract.conftest import ROOT, load, repository_files

LISTED = load(ROOT / "tests/areas.yml")
FILES = [str(path.relative_to(ROOT)) for path in repository_files()]


def files_of(area: str) -> set[str]:
    return {
        path
        for path in FILES
        for pattern in LISTED["areas"][area]["tests"]
        if fnmatch(path, pattern) and path.rpartition("/")[2].startswith("test_")
    }


def test_whatever_may_be_left_out_belongs_to_one_area() -> None:
    deep = [
        path
        for path in FILES
        if path.rpartition("/")[2].startswith("test_") and not path.startswith("tests/contract")
    ]
    marked = [path for path in deep if re.search(r"mark\.full|smoke_and_full", (ROOT / path).read_text())]
    owners = {path: [area for area in LISTED["areas"] if path in files_of(area)] for path in marked}
    assert {path: areas for path, areas in owners.items() if len(areas) != 1} == {}


def test_an_area_lies_in_one_stage_as_only_whole_stages_are_recorded() -> None:
    stages = {area: {path.split("/")[1] for path in files_of(area)} for area in LISTED["areas"]}
    assert {area: found for area, found in stages.items() if len(found) != 1} == {}


def test_every_pattern_of_an_area_finds_a_file() -> None:
    patterns = [*LISTED["shared_inputs"]]
    for area in LISTED["areas"].values():
        patterns += [*area["tests"], *area["inputs"]]
    assert [each for each in patterns if not any(fnmatch(path, each) for path in FILES)] == []


# bin/test's limit, less the reserve of tests/plugins/depth.py and what the first step takes (7 minutes and a half).
LANE_SECONDS = 85 * 60 - 900 - 450


def test_an_area_fits_into_a_run_beside_what_is_always_run() -> None:
    """One that takes longer would be due for ever."""
    (step,) = re.findall(r'^steps=\("[^"]*" "([^"]*)"\)$', (ROOT / "bin/test").read_text(), re.MULTILINE)
    lanes = [lane.split() for lane in step.split(";")]
    always = {stage: sum(LISTED["stages"][each] for each in lane) for lane in lanes for stage in lane}
    seconds = {
        area: listed["seconds"] + always[next(iter(files_of(area))).split("/")[1]]
        for area, listed in LISTED["areas"].items()
    }
    assert {area: needed for area, needed in seconds.items() if needed > LANE_SECONDS} == {}
