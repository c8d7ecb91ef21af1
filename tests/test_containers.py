"""deploy/docker and deploy/compose, as far as they can be looked at without a container engine."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from compose_spec import PyCompose

from gateway.build import check
from gateway.config import load
from tests.gateway_process import Gateway, eventually
from tests.services.processes import ServerFailed, free_ports
from tests.services.programs import OPENSSL

ROOT = Path(__file__).parent.parent
COMPOSE = ROOT / "deploy/compose"
OURS = ("gateway", "worker", "topology")


@pytest.fixture
def compose():
    document = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
    return {key: value for key, value in document.items() if not key.startswith("x-")}


@pytest.fixture
def prepared(tmp_path):
    """Return the folder of a copy in which prepare.sh has run."""
    return prepare(tmp_path)


@pytest.fixture
def prepared_for_localhost(tmp_path, monkeypatch):
    """The same, with a certificate for localhost."""
    monkeypatch.setenv("RABBITMQ_NAME", "localhost")
    return prepare(tmp_path)


def prepare(tmp_path):
    OPENSSL.path()
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy", ignore=shutil.ignore_patterns("secrets", ".env"))
    folder = tmp_path / "deploy/compose"
    subprocess.run([folder / "prepare.sh"], check=True, capture_output=True)
    return folder


def environment_of(folder):
    lines = (folder / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


def test_the_compose_file_is_one(compose):
    """It fits the specification, which knows a wrong key when it sees one."""
    PyCompose.from_yaml(json.dumps(compose))

    compose["services"]["gateway"]["read_onyl"] = True
    with pytest.raises(ValueError, match="read_onyl"):
        PyCompose.from_yaml(json.dumps(compose))


def test_its_services_and_volumes_exist(compose):
    """What is waited for is a service, and what is mounted by name is a volume."""
    services = compose["services"]
    awaited = {name for service in services.values() for name in service.get("depends_on", ())}
    mounts = [mount for service in services.values() for mount in service.get("volumes", ())]
    named = {mount.split(":")[0] for mount in mounts if not mount.startswith(".")}

    assert awaited <= set(services)
    assert named == set(compose["volumes"])


def test_what_it_mounts_is_there(compose, prepared):
    """Every file of the host that a service mounts is shipped, or made by prepare.sh."""
    mounts = [mount for service in compose["services"].values() for mount in service.get("volumes", ())]
    paths = [mount.split(":")[0] for mount in mounts if mount.startswith(".")]

    assert len(paths) > 10
    assert [path for path in paths if not (prepared / path).resolve().is_file()] == []


@pytest.mark.parametrize("name", OURS)
def test_our_services_are_confined(compose, name):
    """Read-only root, no capabilities, no way to get any."""
    service = compose["services"][name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "user" not in service, "the image names it"


def test_every_image_has_a_version(compose):
    """Nothing that is pulled follows a tag like latest."""
    images = {service["image"] for service in compose["services"].values()}

    assert images - {"im-gateway:local"}
    assert all(re.search(r":v?\d+[\d.]*(-\w+)?$", image) for image in images - {"im-gateway:local"})


@pytest.mark.parametrize("name", OURS)
def test_the_configuration_is_right(compose, prepared, name):
    """With the variables of .env and of the service, config.yaml is a valid configuration without warnings."""
    given = environment_of(prepared)
    environ = {
        key: re.sub(r"\$\{(\w+):\?[^}]*\}", lambda found: given[found[1]], value)
        for key, value in compose["services"][name]["environment"].items()
    }
    config = load(prepared / "config.yaml", environ)

    assert check(config, serves=name == "gateway") == []
    assert config.broker.urls[0].startswith("amqps://im-")
    assert config.broker.declare == ("apply" if name == "topology" else "check")


def test_prepare_keeps_what_is_there(prepared):
    """A second run changes no password and no certificate."""
    before = {path: path.read_bytes() for path in prepared.rglob("*") if path.is_file()}
    subprocess.run([prepared / "prepare.sh"], check=True, capture_output=True)

    assert {path: path.read_bytes() for path in prepared.rglob("*") if path.is_file()} == before
    assert (prepared / ".env").stat().st_mode & 0o077 == 0
    assert (prepared / "secrets").stat().st_mode & 0o077 == 0


def test_the_certificate_is_rabbitmqs(prepared):
    """The gateway, which checks name and CA, takes it."""
    secrets = prepared / "secrets"
    command = ["openssl", "verify", "-CAfile", secrets / "ca.pem", "-purpose", "sslserver"]
    subprocess.run([*command, "-verify_hostname", "rabbitmq", secrets / "rabbitmq.pem"], check=True)
    wrong = subprocess.run(
        [*command, "-verify_hostname", "other", secrets / "rabbitmq.pem"], capture_output=True
    )

    assert wrong.returncode != 0


def test_rabbitmq_takes_the_passwords(prepared, rabbitmq):
    """The hashes that prepare.sh wrote into RabbitMQ's definitions are those of the passwords in .env."""
    given = environment_of(prepared)
    definitions = json.loads((prepared / "secrets/definitions.json").read_text())
    rabbitmq.manage("POST", "/api/definitions", definitions)
    try:
        for user in definitions["users"]:
            password = given[f"RABBITMQ_{user['name'].removeprefix('im-').upper()}_PASSWORD"]
            rabbitmq.ctl("authenticate_user", user["name"], password)
        with pytest.raises(ServerFailed):
            rabbitmq.ctl("authenticate_user", "im-serve", "wrong")
    finally:
        for user in definitions["users"]:
            rabbitmq.manage("DELETE", f"/api/users/{user['name']}")
        rabbitmq.manage("DELETE", "/api/vhosts/im")


def test_the_image_is_confined():
    """The last stage runs as a numbered user that is not root, from the lock with hashes, and can tell its health."""
    text = (ROOT / "deploy/docker/Dockerfile").read_text()
    last = text.rpartition("\nFROM ")[2]

    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", last, re.MULTILINE)
    assert "HEALTHCHECK" in last
    assert "--require-hashes -r requirements.lock" in text
    assert "pip" not in last


def test_the_builder_gets_what_the_image_copies():
    """.dockerignore lets through what COPY names, and nothing else."""
    text = (ROOT / "deploy/docker/Dockerfile").read_text()
    copied = {
        name
        for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE)
        for name in line.split()[:-1]
    }
    passed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}

    assert passed == copied
    assert all((ROOT / name).exists() for name in copied)


def test_prometheus_is_that_of_the_alerts():
    """The compose file's Prometheus has the rules and the jobs that the alerts know, with the token's file."""
    here = yaml.safe_load((COMPOSE / "prometheus.yml").read_text())
    there = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())

    assert here["rule_files"] == there["rule_files"]
    assert [job["job_name"] for job in here["scrape_configs"]] == [
        job["job_name"] for job in there["scrape_configs"]
    ]
    for job in here["scrape_configs"]:
        assert job["authorization"]["credentials_file"] == "/etc/prometheus/im-gateway-token"


def test_rabbitmq_with_tls_as_configured(prepared_for_localhost, rabbitmq, tmp_path):
    """The real broker takes rabbitmq.conf, and a callback goes through it by TLS with the users of prepare.sh."""
    folder = prepared_for_localhost
    given, secrets = environment_of(folder), folder / "secrets"
    (port,) = free_ports(1)
    settings = dict(
        line.split(" = ")
        for line in (ROOT / "deploy/rabbitmq/rabbitmq.conf").read_text().splitlines()
        if not line.startswith("#")
    )
    for key, path in settings.items():
        if path.startswith("/etc/rabbitmq/"):
            name = Path(path).name
            settings[key] = str(rabbitmq.keep(f"tls-{name}", (secrets / name).read_text()))
    assert settings.pop("listeners.tcp") == "none"
    assert settings.pop("listeners.ssl.default") == "5671"
    settings["listeners.ssl.1"] = f"127.0.0.1:{port}"
    gateway = Gateway(tmp_path / "gateway", sinks={"audit": {"kind": "jsonl", "path": "var/events.jsonl"}})

    def become(role, declare):
        url = f"amqps://im-{role}:{given[f'RABBITMQ_{role.upper()}_PASSWORD']}@localhost:{port}/im"
        gateway.change(["broker"], {"url": url, "tls_ca": str(secrets / "ca.pem"), "declare": declare})

    try:
        rabbitmq.configure(**settings)
        become("topology", "apply")
        gateway.command("topology", "apply")
        become("serve", "check")
        gateway.start("serve")
        become("work", "check")
        gateway.start("work")
        assert gateway.sender().post(1)
        eventually(lambda: len(gateway.lines()) == 1, "the event")
    finally:
        gateway.close()
        rabbitmq.configure()
        for role in ("topology", "serve", "work", "operator"):
            rabbitmq.manage("DELETE", f"/api/users/im-{role}")
        rabbitmq.retire_vhost(rabbitmq.url + "im")
