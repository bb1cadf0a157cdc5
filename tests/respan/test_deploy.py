"""compose.yaml, Dockerfile, nginx.conf and the systemd units: read and judged without Docker."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import get_commands

from tests.respan.test_settings import _documented

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: each for name, each in SERVICES.items() if each.get("image", "").startswith("respan:")}
UNITS = sorted((ROOT / "deploy" / "systemd").iterdir())
NGINX = os.environ.get("RESPAN_TEST_NGINX") or shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
# What compose itself puts together from `.env`.
OF_COMPOSE = {"POSTGRES_PASSWORD", "RABBITMQ_PASSWORD"}


def exists(command: list[str]) -> bool:
    """Tell whether our image has what a command starts."""
    match command:
        case ["python", "-c", _]:
            return True
        case ["python", "-m", module, *_]:
            return importlib.util.find_spec(module) is not None
        case ["python", "manage.py", name, *_]:
            return name in get_commands()
    return False


def test_every_process_of_the_architecture_is_there() -> None:
    assert SERVICES.keys() >= {
        "nginx", "web-1", "web-2", "shipper", "worker", "beat", "postgres", "rabbitmq", "redis", "prepare"
    }  # fmt: skip
    words = {name: " ".join(each["command"]) for name, each in OURS.items()}
    assert sum(" beat " in each for each in words.values()) == 1
    assert sum(each.endswith("manage.py ship") for each in words.values()) == 1


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_runs_as_root_or_may_become_it(name: str) -> None:
    service = SERVICES[name]
    uid = service["user"].partition(":")[0]
    assert uid.isdecimal()
    assert int(uid) > 0
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not service.get("privileged")
    assert not any("docker.sock" in str(volume) for volume in service.get("volumes", []))
    if name != "rabbitmq":  # it writes its configuration beside its data
        assert service["read_only"] is True


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - {"prepare"}))
def test_every_lasting_service_is_watched_and_comes_back(name: str) -> None:
    service = SERVICES[name]
    assert service["healthcheck"]["test"][0] == "CMD"
    assert service["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", SERVICES)
def test_volumes_networks_and_dependencies_exist(name: str) -> None:
    service = SERVICES[name]
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        assert source in COMPOSE["volumes"] or source == "./deploy/tls" or (ROOT / source).exists()
    assert set(service["networks"]) <= COMPOSE["networks"].keys()
    assert set(service.get("depends_on", {})) <= SERVICES.keys()
    for other, condition in service.get("depends_on", {}).items():
        if condition["condition"] == "service_healthy":
            assert "healthcheck" in SERVICES[other]


def test_data_that_must_last_is_on_volumes() -> None:
    assert "postgres:/var/lib/postgresql/data" in SERVICES["postgres"]["volumes"]
    assert "rabbitmq:/var/lib/rabbitmq" in SERVICES["rabbitmq"]["volumes"]
    for name in ("web-1", "web-2", "shipper"):  # one spool, shared
        assert "data:/var/lib/respan-data" in SERVICES[name]["volumes"]


def test_only_nginx_can_be_reached_from_outside() -> None:
    assert [name for name, each in SERVICES.items() if "ports" in each] == ["nginx"]
    assert COMPOSE["networks"]["inside"]["internal"] is True
    for name in ("postgres", "rabbitmq", "redis"):
        assert SERVICES[name]["networks"] == ["inside"]


@pytest.mark.parametrize("name", OURS)
def test_our_services_use_known_settings_and_commands_that_exist(name: str) -> None:
    service = OURS[name]
    assert service["environment"].keys() <= _documented().keys()
    wanted = set(re.findall(r"\$\{([A-Z0-9_]+)", str(service["environment"])))
    assert wanted <= _documented().keys() | OF_COMPOSE
    assert exists(service["command"])
    if "healthcheck" in service:
        assert exists(service["healthcheck"]["test"][1:])
        if "doctor" in service["healthcheck"]["test"]:
            from respan.management.commands.doctor import AREAS

            assert service["healthcheck"]["test"][-1] in AREAS


def test_no_secret_stands_in_compose_and_none_has_a_default() -> None:
    text = (ROOT / "compose.yaml").read_text()
    for name in ("SECRET_KEY", "RESPAN_KEY_PEPPER", "RESPAN_KEYS", *OF_COMPOSE):
        assert f"${{{name}:?" in text
        assert f"${{{name}:-" not in text


def test_images_are_pinned() -> None:
    for name, service in SERVICES.items():
        image, _, tag = service["image"].rpartition(":")
        assert image, name
        assert tag not in {"", "latest"}, name


def test_the_image_is_built_in_two_stages_by_hash_and_runs_without_rights() -> None:
    text = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
    steps = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    assert sum(word == "FROM" for word, _ in steps) == 2
    assert all(re.search(r"^\S+:\S+", rest) for word, rest in steps if word == "FROM")
    (pip,) = (rest for word, rest in steps if word == "RUN" and "pip install" in rest)
    assert {"--require-hashes", "--only-binary=:all:", "--no-deps"} <= set(pip.split())
    (user,) = (rest for word, rest in steps if word == "USER")
    assert user == OURS["web-1"]["user"] == "10001:10001"
    (environment,) = (rest for word, rest in steps if word == "ENV")
    names = {pair.partition("=")[0] for pair in environment.split()}
    assert (
        names - {"PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "DJANGO_SETTINGS_MODULE"}
        <= _documented().keys()
    )
    for word, rest in steps:
        if word == "COPY" and not rest.startswith("--from"):
            assert all((ROOT / source).exists() for source in rest.split()[:-1]), rest


def test_nothing_but_what_is_copied_reaches_a_build() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    kept = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert kept == {source for line in copied for source in line.split()}


def test_the_proxy_waits_longer_than_a_call_may_take_and_repeats_none() -> None:
    from django.conf import settings

    text = (ROOT / "deploy" / "nginx.conf").read_text()
    (read,) = re.findall(r"proxy_read_timeout (\d+)s", text)
    assert int(read) > settings.RESPAN_TOTAL_TIMEOUT_S
    (most,) = re.findall(r"client_max_body_size (\d+)m", text)
    assert int(most) * 1024**2 >= settings.RESPAN_MAX_BODY_BYTES
    assert "proxy_buffering off" in text
    assert "non_idempotent" not in text
    assert "X-Forwarded-For $remote_addr" in text  # appended to, a client could choose its address


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
def test_nginx_takes_its_configuration(tmp_path: Path) -> None:
    text = (ROOT / "deploy" / "nginx.conf").read_text()
    text = text.replace("/tmp/", f"{tmp_path}/").replace("/etc/nginx/tls", str(tmp_path))
    text = text.replace("web-1:", "127.0.0.1:").replace("web-2:8000", "127.0.0.1:8001")
    (tmp_path / "nginx.conf").write_text(text)
    names = ["-keyout", tmp_path / "privkey.pem", "-out", tmp_path / "fullchain.pem"]
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=respan.test"]
    subprocess.run([*make, *names], check=True, capture_output=True)
    done = subprocess.run([NGINX, "-t", "-e", "stderr", "-c", tmp_path / "nginx.conf"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- systemd ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", [path for path in UNITS if path.suffix == ".service"], ids=lambda path: path.name)
def test_units_run_without_rights_and_start_what_exists(unit: Path) -> None:
    text = unit.read_text()
    assert "\nUser=respan\n" in text
    for word in ("NoNewPrivileges=true", "CapabilityBoundingSet=\n", "ProtectSystem=strict", "ProtectHome=true"):
        assert word in text
    names = set(
        re.findall(r"(?:Environment=|(?<=\s))([A-Z][A-Z0-9_]+)=", re.sub(r"^(?!Environment).*$", "", text, flags=re.M))
    )
    assert names - {"DJANGO_SETTINGS_MODULE"} <= _documented().keys()
    (command,) = re.findall(r"/opt/respan/\.venv/bin/python (.+)$", text, re.MULTILINE)
    assert exists(["python", *command.split()])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_takes_every_unit(tmp_path: Path) -> None:
    opt = tmp_path / "opt"
    (opt / ".venv" / "bin").mkdir(parents=True)
    (opt / ".venv" / "bin" / "python").symlink_to(sys.executable)
    units = tmp_path / "units"
    units.mkdir()
    for path in UNITS:
        text = path.read_text().replace("/opt/respan", str(opt)).replace("User=respan", "User=daemon")
        (units / path.name).write_text(text.replace("Group=respan", "Group=daemon"))
    instances = [name if "@" not in name else name.replace("@", "@8001") for name in (path.name for path in UNITS)]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(f"./{name}" for name in instances)],
        cwd=units, env={**os.environ, "SYSTEMD_UNIT_PATH": f"{units}:"}, capture_output=True, text=True,
    )  # fmt: skip
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "respan" in line]
    assert ours == []
    assert done.returncode == 0, done.stderr
