"""Tags from inputs, the bake file, and what of the host's package clients a build gets to see."""

import json
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.n8n_platform import images, images_clients
from ansible.module_utils.n8n_platform.images import Image, ImagesError

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


FOLDERS = {"contexts": "/c", "secrets": "/s", "rootfs": "/r"}


class TestBakeFile:
    def bake(self, name, **more):
        wave = [image for image in family() if image.name == name]
        return images.bake_file(wave, refs(family()), FOLDERS, more.pop("labels", {}), **more)["target"][name]

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

    def test_labels_tags_and_secrets(self):
        target = self.bake("app", labels={"app": {"packages": "a=1"}}, suffix="-x")
        ref = refs(family())["app"]
        assert target["tags"] == [f"{ref}-x"]
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
    progress = images.BakeProgress()
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

    def test_every_dockerfile_starts_from_a_name_and_ends_as_a_numeric_user(self):
        for dockerfile in FILES.glob("*/Dockerfile"):
            lines = dockerfile.read_text().splitlines()
            starts = [line.split()[1] for line in lines if line.startswith("FROM ")]
            assert set(starts) <= {"scratch", "debian", "base", "n8n"}, dockerfile
            users = [line.split()[1] for line in lines if line.startswith("USER ")]
            assert dockerfile.parent.name.startswith("base") or users[-1].replace(":", "").isdigit(), (
                dockerfile
            )
