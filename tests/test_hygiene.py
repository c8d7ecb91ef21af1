"""The bill of materials and the search for secrets."""

import re

import pytest

from tests.hygiene import sbom, secrets

LOCK = (sbom.ROOT / "requirements.lock").read_text()
# In two parts, or this file would be found.
MADE = {
    "private key": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "Tencent Cloud SecretId": "AKID" + "a1B2" * 8,
    "AWS access key": "AKIA" + "ABCD" * 4,
    "Alibaba Cloud access key": "LTAI" + "a1B2" * 5,
    "Google API key": "AIza" + "a" * 35,
    "GitHub token": "ghp_" + "a" * 36,
    "GitLab token": "glpat-" + "a" * 20,
    "Slack token": "xoxb-" + "1" * 12,
    "Stripe key": "sk_live_" + "a" * 24,
    "package registry token": "npm_" + "a" * 36,
    "model provider key": "sk-ant-" + "a" * 24,
    "JSON web token": ".".join(("eyJ" + "a" * 12, "eyJ" + "b" * 12, "c" * 12)),
}


def test_nothing_under_version_control_is_a_secret(capsys):
    """Else it is public for ever with the first push."""
    assert secrets.main() == 0, capsys.readouterr().err


@pytest.mark.parametrize("kind", secrets.SHAPES)
def test_each_shape_is_found(kind):
    """With its line, unless that says that it is made up; the secret itself is not repeated."""
    content = f"first\nkey = '{MADE[kind]}'\n".encode()

    assert list(secrets.secrets_in(content)) == [(2, kind)]
    assert list(secrets.secrets_in(content.replace(b"'\n", b"'  # not a secret\n"))) == []


def test_a_finding_fails(capsys, monkeypatch, tmp_path):
    """Named by file, line and kind."""
    (tmp_path / "config.yaml").write_text("a: 1\n" + MADE["AWS access key"])
    monkeypatch.setattr(secrets, "ROOT", tmp_path)
    monkeypatch.setattr(
        secrets.subprocess, "run", lambda *words, **how: type("Done", (), {"stdout": b"config.yaml\0"})
    )

    assert secrets.main() == 1
    assert capsys.readouterr().err.startswith("config.yaml:2: AWS access key")


def test_the_bill_has_every_pin_of_the_lock():
    """Each with its version, its hashes and a reference of its own."""
    found = sbom.bill(LOCK, "1.2.3")
    pinned = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", LOCK, re.MULTILINE)

    assert [(one["name"], one["version"]) for one in found["components"]] == sorted(
        (sbom.normal(name), version) for name, version in pinned
    )
    hashes = [
        one for part in found["components"] for place in part["externalReferences"] for one in place["hashes"]
    ]
    assert len(hashes) == LOCK.count("--hash=sha256:")
    refs = [one["bom-ref"] for one in found["components"]]
    assert len(set(refs)) == len(refs)
    assert found["metadata"]["component"]["version"] == "1.2.3"


def test_the_bill_knows_who_needs_what_and_licences():
    """The graph names only parts that are listed, the gateway's own first."""
    found = sbom.bill(LOCK, "1.2.3")
    graph = {one["ref"]: one["dependsOn"] for one in found["dependencies"]}
    refs = {one["bom-ref"]: one for one in found["components"]}

    assert set(graph) == {sbom.NAME, *refs}
    assert {one for needs in graph.values() for one in needs} <= set(refs)
    [aiohttp] = [ref for ref in refs if ref.startswith("aiohttp@")]
    assert aiohttp in graph[sbom.NAME]
    assert any(one.startswith("yarl@") for one in graph[aiohttp])
    assert all(refs[ref].get("licenses") for ref in graph[sbom.NAME] if "uvloop" not in ref)


def test_the_bill_is_the_same_each_time():
    """So that two releases can be compared."""
    assert sbom.bill(LOCK, "1") == sbom.bill(LOCK, "1")
