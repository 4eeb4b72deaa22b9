"""Tags from inputs, the bake file, and what of the host's package clients a build gets to see."""

import json
import subprocess
import sys
import time
from pathlib import Path

import platform_images
import pytest
import yaml
from ansible.module_utils.n8n_platform import (
    images,
    images_bundle,
    images_clients,
    images_notes,
    images_prune,
    images_source,
)
from ansible.module_utils.n8n_platform.images import Image, ImagesError
from ansible.module_utils.n8n_platform.images_engine import ImageEngine, Runner

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "roles/container_images/files"


def family(**changes):
    base = Image("base", "base", "d0", rootfs={"suite": "trixie", "packages": ["curl"]})
    app = Image("app", "app", "d1", base="base", args={"MAJOR": "1"})
    runner = Image("app-runner", "app-runner", "d2", base="app")
    other = Image("other", "other", "d3", base="base")
    by_name = {image.name: image for image in (base, app, runner, other)}
    for name, values in changes.items():
        by_name[name] = Image(**{**vars(by_name[name]), **values})
    return list(by_name.values())


def refs(images_list, refreshed="2026-01-01", architecture="x86_64"):
    return images.plan_refs(images_list, refreshed, architecture)


class TestTags:
    def test_the_same_inputs_give_the_same_tags_in_any_order(self):
        assert refs(family()) == refs(list(reversed(family())))
        assert refs(family())["app"].startswith("n8n-platform/app:")
        assert len(refs(family())["app"].rpartition(":")[2]) == 12

    @pytest.mark.parametrize(
        ("changes", "moved"),
        [
            ({"base": {"digest": "new"}}, {"base", "app", "app-runner", "other"}),
            (
                {"base": {"rootfs": {"suite": "forky", "packages": ["curl"]}}},
                {"base", "app", "app-runner", "other"},
            ),
            ({"app": {"args": {"MAJOR": "2"}}}, {"app", "app-runner"}),
            ({"app": {"files": {"list.json": "{}"}}}, {"app", "app-runner"}),
            ({"app-runner": {"digest": "new"}}, {"app-runner"}),
        ],
    )
    def test_a_change_moves_the_image_and_what_is_based_on_it(self, changes, moved):
        before, after = refs(family()), refs(family(**changes))
        assert {name for name in before if before[name] != after[name]} == moved

    def test_a_new_date_or_another_architecture_moves_all(self):
        before = refs(family())
        for after in (refs(family(), refreshed="2026-02-01"), refs(family(), architecture="aarch64")):
            assert not set(before.values()) & set(after.values())

    def test_a_pulled_image_is_its_digest_wherever_it_comes_from(self):
        pull = images.pull_reference({"image": "redis", "tag": "8", "digest": "sha256:aa"})
        mirrored = Image("redis", pull=pull, registry="mirror.example/hub/")
        assert mirrored.address == "mirror.example/hub/redis:8@sha256:aa"
        assert refs([mirrored]) == refs([Image("redis", pull=pull)])
        assert refs([mirrored]) != refs([Image("redis", pull=pull.replace("aa", "bb"))])

    def test_an_unknown_base_a_cycle_and_a_double_name_are_refused(self):
        with pytest.raises(ImagesError, match="'nothing' is not an image"):
            refs(family(app={"base": "nothing"}))
        with pytest.raises(ImagesError, match="based on each other"):
            refs(family(base={"base": "app-runner"}))
        with pytest.raises(ImagesError, match="named twice"):
            refs([*family(), *family()])


class TestContextDigest:
    @pytest.fixture
    def folder(self, tmp_path):
        (tmp_path / "Dockerfile").write_text("FROM base\n")
        (tmp_path / "run.sh").write_text("true\n")
        return tmp_path

    def test_names_contents_and_modes_count(self, folder):
        seen = {images.context_digest(folder)}
        (folder / "run.sh").write_text("false\n")
        seen.add(images.context_digest(folder))
        (folder / "run.sh").chmod(0o755)
        seen.add(images.context_digest(folder))
        (folder / "run.sh").rename(folder / "go.sh")
        seen.add(images.context_digest(folder))
        assert len(seen) == 4

    def test_a_compiled_file_does_not_count(self, folder):
        before = images.context_digest(folder)
        (folder / "__pycache__").mkdir()
        (folder / "__pycache__/x.pyc").write_bytes(b"x")
        assert images.context_digest(folder) == before

    def test_a_folder_without_dockerfile_is_refused(self, tmp_path):
        with pytest.raises(ImagesError, match="no Dockerfile"):
            images.context_digest(tmp_path)


FOLDERS = {"contexts": "/c", "secrets": "/s", "rootfs": "/r", "files": "/f"}


class TestBakeFile:
    def bake(self, name, **more):
        wave = [image for image in family() if image.name == name]
        return images.bake_file(wave, refs(family()), "2026-01-01", FOLDERS, more.pop("labels", {}), **more)[
            "target"
        ][name]

    def test_a_wave_needs_only_what_earlier_ones_made(self):
        def names(missing):
            return [[image.name for image in wave] for wave in images.waves(family(), missing)]

        assert names(["base", "app", "app-runner", "other"]) == [["base"], ["app", "other"], ["app-runner"]]
        assert names(["app-runner", "other"]) == [["app-runner", "other"]]
        assert names([]) == []

    def test_the_base_is_the_engines_image(self):
        assert self.bake("app")["contexts"] == {"base": f"docker-image://{refs(family())['base']}"}
        assert "contexts" not in self.bake("base")

    def test_the_root_file_system_is_the_context_of_its_image(self):
        target = self.bake("base")
        tag = refs(family())["base"].rpartition(":")[2]
        assert (target["context"], target["dockerfile"]) == (f"/r/{tag}", "/c/base/Dockerfile")

    def test_files_are_a_context_of_their_own_beside_the_base(self):
        wave = [image for image in family(app={"files": {"a": "b"}}) if image.name == "app"]
        ref = refs(family())["app"]
        file = images.bake_file(wave, refs(family()), "2026-01-01", FOLDERS, {})
        assert file["target"]["app"]["contexts"] == {
            "base": f"docker-image://{refs(family())['base']}",
            "files": f"/f/{ref.rpartition(':')[2]}",
        }

    def test_labels_tags_and_secrets(self):
        target = self.bake("app", labels={"app": {"packages": "a=1"}}, suffix="-x")
        ref = refs(family())["app"]
        assert target["tags"] == [f"{ref}-x"]
        assert target["args"] == {"MAJOR": "1", "DEBIAN_REFRESHED": "2026-01-01"}
        assert target["labels"] == {
            "io.n8n-platform.image": "app",
            "io.n8n-platform.inputs": ref.rpartition(":")[2],
            "packages": "a=1",
        }
        assert "id=npmrc,src=/s/npmrc" in target["secret"]


class TestClientSettings:
    def test_mirrors_are_found_beside_other_vendors(self):
        entries = [
            {"uris": ["https://d.example/linux/debian"], "suites": ["bookworm"], "components": ["stable"]},
            {"uris": ["https://u.example/ubuntu"], "suites": ["noble"], "components": ["main"]},
            {"uris": ["http://m.example/debian/"], "suites": ["bookworm"], "components": ["main"]},
            {
                "uris": ["http://m.example/debian-security"],
                "suites": ["bookworm-security"],
                "components": ["main"],
            },
        ]
        assert images_clients.debian_mirrors(entries) == (
            "http://m.example/debian",
            "http://m.example/debian-security",
        )
        assert images_clients.debian_mirrors(entries[:2]) == ("", "")

    def test_sources_name_the_suite_that_is_built_not_the_hosts(self):
        text = images_clients.apt_sources(
            "trixie", "http://m.example/debian", "http://m.example/debian-security"
        )
        assert "Suites: trixie trixie-updates\n" in text
        assert "Suites: trixie-security\n" in text
        assert "trixie-security" not in images_clients.apt_sources("trixie", "http://m.example/debian", "")

    def test_apt_keeps_proxies_and_checks_and_replaces_the_bundle(self):
        dump = 'Acquire::Languages "none";\nAcquire::http::Proxy "http://p:1";\nAcquire::https::CaInfo "/host.pem";\n'
        text = images_clients.apt_conf(dump + 'Acquire::Check-Valid-Until "false";\n', "/run/secrets/ca.crt")
        assert text.splitlines() == [
            'Acquire::http::Proxy "http://p:1";',
            'Acquire::Check-Valid-Until "false";',
            'Acquire::https::CaInfo "/run/secrets/ca.crt";',
        ]

    def test_pip_settings_merge_and_paths_of_the_host_stay_out(self):
        texts = [
            "[global]\nindex-url = https://a.example/\ncert = /x.pem\n",
            "[global]\nindex_url = https://b.example/\n",
        ]
        text = images_clients.pip_conf(
            texts, {"PIP_DEFAULT_TIMEOUT": "180", "PIP_FIND_LINKS": "/wheels", "HOME": "/root"}
        )
        assert text == "[global]\ndefault-timeout = 180\nindex-url = https://b.example/\n"

    def test_npm_settings_merge_and_paths_of_the_host_stay_out(self):
        texts = ["registry=https://a.example/\n; comment=1\nnodedir=/usr\n", "//b.example/:_authToken=t=t\n"]
        text = images_clients.npmrc(
            texts, {"npm_config_registry": "https://b.example/", "NPM_CONFIG_CAFILE": "/x.pem"}
        )
        assert text == "//b.example/:_authToken=t=t\nregistry=https://b.example/\n"


def test_progress_shows_each_step_once_and_how_it_ended():
    progress = images.BakeProgress(["n8n", "redis"])
    lines = [
        "#7 [n8n stage-1 2/8] RUN --mount=type=secret,id=npmrc     npm   install",
        "#7 0.3 added 1 package",
        "#7 [n8n stage-1 2/8] RUN --mount=type=secret,id=npmrc     npm   install",
        "#8 [redis 1/2] RUN true",
        "#10 [n8n pypi  9/10] RUN pip download",
        "#7 DONE 98.1s",
        "#8 CACHED",
        "#9 DONE 0.1s",
    ]
    assert [text for line in lines if (text := progress.read(line))] == [
        "n8n 2/8 RUN npm install",
        "redis 1/2 RUN true",
        "n8n/pypi 9/10 RUN pip download",
        "n8n 2/8 done in 98.1s",
        "redis 1/2 cached",
    ]


def test_progress_names_the_image_where_buildkit_does_not():
    progress = images.BakeProgress(["base"])
    assert progress.read("#5 [stage-0 1/2] RUN true") == "base 1/2 RUN true"
    assert progress.read("#6 [pypi 1/2] RUN true") == "base/pypi 1/2 RUN true"
    assert progress.read("#7 [1/1] ADD rootfs.tar /") == "base 1/1 ADD rootfs.tar /"


def test_a_long_step_is_named_again_after_a_silence():
    view = images.ProgressView()
    assert view.lines(["n8n 6/10 RUN npm install", "redis 1/2 RUN true"], 5) == [
        "n8n 6/10 RUN npm install",
        "redis 1/2 RUN true",
    ]
    assert view.lines(["redis 1/2 done in 0.1s"], 10) == ["redis 1/2 done in 0.1s"]
    assert view.lines([], 35) == []
    assert view.lines([], 40) == ["n8n 6/10 running for 35s"]
    assert view.lines([], 45) == []


class TestPrune:
    def images(self, *refs):
        """The newest first."""
        return [
            images_prune.Image(f"n8n-platform/{ref}", f"sha256:{ref}", str(9 - age))
            for age, ref in enumerate(refs)
        ]

    def removable(self, refs, wanted=(), used=(), keep=2, names=("a", "b")):
        needed = images_prune.Needed(
            {f"n8n-platform/{ref}" for ref in wanted}, {f"n8n-platform/{n}" for n in names}
        )
        found = images_prune.removable(self.images(*refs), set(used), needed, keep)
        return [ref.removeprefix("n8n-platform/") for ref in found]

    def test_the_newest_of_each_name_stay(self):
        assert self.removable(("a:4", "a:3", "b:1", "a:2", "a:1")) == ["a:2", "a:1"]
        assert self.removable(("a:4", "b:1", "a:3"), keep=0) == ["a:3"]

    def test_what_is_wanted_or_used_stays_however_old(self):
        refs = ("a:5", "a:4", "a:3", "a:2", "a:1")
        used = ("n8n-platform/a:1", "sha256:a:3")
        assert self.removable(refs, wanted=["a:2"], used=used, keep=1) == ["a:4"]

    def test_names_that_no_environment_knows_are_left_alone(self):
        assert self.removable(("a:2", "c:2", "a:1", "c:1"), keep=1) == ["a:1"]

    def test_a_damaged_note_is_named_and_stops_everything(self, tmp_path):
        (tmp_path / "environments").mkdir()
        (tmp_path / "environments/staging.json").write_text("{")
        with pytest.raises(ValueError, match=r"staging\.json is damaged: run site\.yml for staging"):
            images_prune.needed(tmp_path)

    def test_a_note_is_written_once_and_read_back(self, tmp_path):
        releases = tmp_path / "releases/1"
        releases.mkdir(parents=True)
        (releases / "compose.yaml").write_text("image: n8n-platform/a:1\nimage: n8n-platform/b:2\n")
        names = ("test", str(tmp_path / "releases"), "0123")
        notes = images_notes.Notes(tmp_path / "images", *names, ["n8n-platform/a:2"])
        assert len(notes.plan()) == 2
        notes.write(notes.plan())
        assert notes.plan() == []
        found = images_prune.needed(tmp_path / "images")
        assert found.refs == {"n8n-platform/a:1", "n8n-platform/a:2", "n8n-platform/b:2"}
        assert (found.names, found.contexts) == ({"n8n-platform/a"}, {"0123"})
        program = tmp_path / "images/platform-prune-images"
        done = subprocess.run([sys.executable, program, "--help"], capture_output=True, text=True, check=True)
        assert "--list" in done.stdout


class FakeEngine:
    """An engine that has some references, and a registry that answers with a problem or not."""

    def __init__(self, has=(), problem=""):
        self.refs_there = set(has)
        self.problem = problem
        self.asked = []
        self.there = True

    def missing(self, wanted):
        return [name for name, ref in wanted.items() if ref not in self.refs_there]

    def registry_problem(self, ref):
        self.asked.append(ref)
        return self.problem

    def free_gb(self):
        return 100


class TestSource:
    def choose(self, asked, engine, digest="sha256:" + "a" * 64, bundle=None):
        pull = images.pull_reference({"image": "redis", "tag": "8", "digest": digest})
        packages = images_source.Choice("packages", [Image("redis")], {"redis": "n8n-platform/redis:1"})
        upstream = images_source.Choice(
            "upstream", [Image("redis", pull=pull)], {"redis": "n8n-platform/redis:2"}
        )
        return images_source.choose(asked, packages, upstream, engine, bundle)

    def test_what_is_complete_is_taken_without_asking_a_registry(self):
        for there, source in (("n8n-platform/redis:1", "packages"), ("n8n-platform/redis:2", "upstream")):
            engine = FakeEngine(has=[there])
            assert self.choose("auto", engine).source == source
            assert engine.asked == []

    def test_a_missing_digest_or_a_silent_registry_means_packages(self):
        engine = FakeEngine()
        choice = self.choose("auto", engine, digest="")
        assert (choice.source, choice.reason) == ("packages", "no digest is pinned for redis")
        assert engine.asked == []
        choice = self.choose("auto", FakeEngine(problem="no route"))
        assert (choice.source, choice.reason) == ("packages", "no route")

    def test_a_registry_that_answers_means_upstream(self):
        engine = FakeEngine()
        assert self.choose("auto", engine).source == "upstream"
        assert engine.asked == ["redis:8@sha256:" + "a" * 64]

    def test_what_was_asked_for_is_taken_whatever_is_there(self):
        engine = FakeEngine(has=["n8n-platform/redis:1"])
        assert self.choose("upstream", engine).source == "upstream"
        assert self.choose("packages", FakeEngine(has=["n8n-platform/redis:2"])).source == "packages"

    def test_a_bundle_gives_what_it_was_made_from(self, tmp_path):
        file = tmp_path / "images.tar"
        manifest = {"format": 1, "source": "upstream", "refs": {}, "files": {"images.tar": {}}}
        images_bundle.manifest_of(file).write_text(json.dumps(images_bundle.seal(manifest)))
        choice = self.choose("bundle", FakeEngine(), bundle=file)
        assert (choice.source, choice.refs["redis"]) == ("bundle", "n8n-platform/redis:2")
        assert (
            self.choose("bundle", FakeEngine(), bundle=tmp_path / "none.tar").refs["redis"]
            == "n8n-platform/redis:1"
        )


class TestChoiceOfARun:
    """Tasks of one run hand on what was decided: nothing is decided again."""

    def plan(self, tmp_path, monkeypatch, engine, **options):
        monkeypatch.setattr(platform_images, "ImageEngine", lambda **_: engine)
        given = {name: option.get("default") for name, option in platform_images.build_spec().items()}
        entry = {
            "context": None,
            "digest": "d",
            "suite": None,
            "base": "",
            "args": {},
            "rootfs": {},
            "files": {},
        }
        pull = {"image": "redis", "tag": "8", "digest": "sha256:" + "a" * 64}
        own = {
            "environment": "local",
            "releases_root": "/releases",
            "images": [{**entry, "name": "redis", "pull": {}}],
            "upstream": [{**entry, "name": "redis", "pull": pull}],
            "contexts": str(tmp_path),
            "cache_root": str(tmp_path),
            "suite": "trixie",
            "refreshed": "2026-01-01",
        }
        return platform_images.run({**given, **own, **options}, check_mode=True)

    def test_it_stays_when_the_registry_does_not_and_is_refused_there(self, tmp_path, monkeypatch):
        engine = FakeEngine()
        first = self.plan(tmp_path, monkeypatch, engine)
        assert first["choice"] == {"source": "upstream", "reason": "a registry answers"}
        engine.problem = "no route"
        kept = first["ansible_facts"]["__container_images_choice"]
        with pytest.raises(ImagesError, match="redis: redis:8@sha256:a+ cannot be pulled: no route"):
            self.plan(tmp_path, monkeypatch, engine, choice=kept)
        assert self.plan(tmp_path, monkeypatch, engine)["choice"]["source"] == "packages"

    def test_packages_stay_when_a_registry_comes_back(self, tmp_path, monkeypatch):
        engine = FakeEngine(problem="no route")
        kept = self.plan(tmp_path, monkeypatch, engine)["ansible_facts"]["__container_images_choice"]
        engine.problem = ""
        assert self.plan(tmp_path, monkeypatch, engine, choice=kept)["choice"] == kept
        assert kept == {"source": "packages", "reason": "no route"}

    def test_what_was_guessed_without_an_engine_does_not_stay(self, tmp_path, monkeypatch):
        engine = FakeEngine(problem="no engine")
        engine.there = False
        planned = self.plan(tmp_path, monkeypatch, engine)
        assert planned["choice"]["source"] == "packages"
        assert planned["ansible_facts"]["__container_images_choice"] == {}


class TestEngineThatIsNotThereYet:
    def test_a_plan_finds_everything_missing(self, tmp_path):
        engine = ImageEngine(f"unix://{tmp_path}/none.sock", may_be_absent=True)
        assert engine.missing({"redis": "n8n-platform/redis:1"}) == ["redis"]
        assert engine.free_gb() > 0
        assert "not there yet" in engine.registry_problem("redis:8@sha256:aa")

    def test_making_images_is_refused(self, tmp_path):
        with pytest.raises(ImagesError, match="the container engine"):
            ImageEngine(f"unix://{tmp_path}/none.sock")


class TestBundle:
    REFS = "n8n-platform/redis:000000000000"

    @pytest.fixture
    def bundle(self, tmp_path):
        """A bundle as `save` leaves it, with an archive of a few bytes."""
        file = tmp_path / "images.tar"
        file.write_bytes(b"layers of all images")
        files = {file.name: {"size": file.stat().st_size, "sha256": images_bundle.sha256(file)}}
        manifest = {"format": 1, "source": "packages", "refs": {"redis": self.REFS}, "files": files}
        images_bundle.manifest_of(file).write_text(json.dumps(images_bundle.seal(manifest)))
        return file

    @pytest.fixture
    def runner(self, tmp_path):
        return Runner(tmp_path / "log", tmp_path / "progress")

    def test_a_whole_bundle_passes(self, bundle, runner):
        images_bundle.verify(bundle, runner)
        assert images_bundle.is_current(bundle, {"redis": self.REFS})
        assert not images_bundle.is_current(bundle, {"redis": "n8n-platform/redis:111111111111"})

    def test_a_bundle_of_other_inputs_is_refused_before_it_is_loaded(self, bundle):
        images_bundle.check_holds(bundle, {"redis": self.REFS})
        with pytest.raises(ImagesError, match="does not hold n8n-platform/redis:111111111111"):
            images_bundle.check_holds(bundle, {"redis": "n8n-platform/redis:111111111111"})

    def test_every_flipped_byte_of_either_file_is_noticed(self, bundle, runner):
        for path in (bundle, images_bundle.manifest_of(bundle)):
            whole = path.read_bytes()
            for position in range(len(whole)):
                path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
                if path != bundle and _same_json(path, whole):
                    continue
                with pytest.raises(ImagesError, match="images.tar"):
                    images_bundle.verify(bundle, runner)
            path.write_bytes(whole)

    def test_a_missing_file_is_named(self, bundle, runner):
        bundle.unlink()
        with pytest.raises(ImagesError, match="missing from the bundle"):
            images_bundle.verify(bundle, runner)
        images_bundle.manifest_of(bundle).unlink()
        with pytest.raises(ImagesError, match="cannot be read"):
            images_bundle.verify(bundle, runner)


def _same_json(path, whole):
    """White space that turned into other white space changes nothing."""
    try:
        return json.loads(path.read_bytes()) == json.loads(whole)
    except ValueError:
        return False


class TestRunner:
    def test_a_silent_command_is_ended(self, tmp_path):
        runner = Runner(tmp_path / "log", tmp_path / "progress")
        started = time.monotonic()
        with pytest.raises(ImagesError, match="no sign of life"):
            runner.run(["sleep", "30"], silence_seconds=0.2)
        assert time.monotonic() - started < 10

    def test_a_failure_shows_the_end_of_what_was_said(self, tmp_path):
        runner = Runner(tmp_path / "log", tmp_path / "progress")
        with pytest.raises(ImagesError, match="so it ends"):
            runner.run(["sh", "-c", "echo so it ends; exit 3"], shorten=lambda line: f"x 1 {line.strip()}")
        assert (tmp_path / "progress").read_text() == "x 1 so it ends\n"


class TestCommittedFiles:
    versions = yaml.safe_load((ROOT / "group_vars/all/versions.yml").read_text())["platform_versions"]

    def test_n8n_is_the_same_in_versions_package_and_lock(self):
        package = json.loads((FILES / "n8n/package.json").read_text())
        lock = json.loads((FILES / "n8n/package-lock.json").read_text())
        assert package["dependencies"] == {"n8n": self.versions["n8n"]["version"]}
        assert lock["packages"]["node_modules/n8n"]["version"] == self.versions["n8n"]["version"]

    def test_the_lock_has_checksums_and_no_address(self):
        lock = json.loads((FILES / "n8n/package-lock.json").read_text())["packages"]
        assert all(entry.get("integrity") for path, entry in lock.items() if path)
        assert not any("resolved" in entry for entry in lock.values())

    def test_a_new_date_reaches_every_step_that_installs_packages(self):
        for dockerfile in FILES.glob("*/Dockerfile"):
            last_stage = "FROM " + dockerfile.read_text().rpartition("FROM ")[2]
            before, installs, _ = last_stage.partition("apt-get install")
            assert not installs or "ARG DEBIAN_REFRESHED\n" in before, dockerfile

    def test_every_dockerfile_starts_from_a_name_and_ends_as_a_numeric_user(self):
        for dockerfile in FILES.glob("*/Dockerfile"):
            lines = dockerfile.read_text().splitlines()
            starts = [line.split()[1] for line in lines if line.startswith("FROM ")]
            assert set(starts) <= {"scratch", "debian", "base", "n8n", "n8n-plain", "$BASE"}, dockerfile
            users = [line.split()[1] for line in lines if line.startswith("USER ")]
            assert dockerfile.parent.name.startswith("base") or users[-1].replace(":", "").isdigit(), (
                dockerfile
            )
