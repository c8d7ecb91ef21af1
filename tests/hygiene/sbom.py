"""What an installation consists of, as a CycloneDX bill of materials: `python -m tests.hygiene.sbom FILE`.

Versions and hashes come from requirements.lock, licences and dependencies from what is installed beside this
program; no network. The same input gives the same bytes. Source: cyclonedx.org/docs/1.6/json.
"""

import json
import re
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from gateway import __version__

ROOT = Path(__file__).parent.parent.parent
NAME = "im-callback-gateway"
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_NEEDED = re.compile(r"^[A-Za-z0-9._-]+")
_PREFIX = "License :: OSI Approved :: "


def pins(lock: str) -> dict[str, tuple[str, list[str]]]:
    """Return version and SHA-256 of every file by the name of the package."""
    found: dict[str, tuple[str, list[str]]] = {}
    name = ""
    for line in lock.splitlines():
        if match := _PIN.match(line):
            name = normal(match[1])
            found[name] = (match[2], [])
        found.get(name, ("", []))[1].extend(_HASH.findall(line))
    return found


def normal(name: str) -> str:
    """Return *name* as PEP 503 spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def bill(lock: str, version: str) -> dict[str, Any]:
    """Return the bill of materials."""
    known = pins(lock)
    root = {
        "type": "application",
        "bom-ref": NAME,
        "name": NAME,
        "version": version,
        "purl": f"pkg:pypi/{NAME}@{version}",
    }
    components = [_component(name, *one) for name, one in sorted(known.items())]
    refs = {name: f"{name}@{one[0]}" for name, one in known.items()}
    graph = [{"ref": NAME, "dependsOn": sorted(refs[one] for one in _needs(NAME, known))}]
    graph += [
        {"ref": refs[name], "dependsOn": sorted(refs[one] for one in _needs(name, known))}
        for name in sorted(known)
    ]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": root | {"licenses": [{"license": {"id": "MIT"}}]}},
        "components": components,
        "dependencies": graph,
    }


def _component(name: str, version: str, hashes: Iterable[str]) -> dict[str, Any]:
    purl = f"pkg:pypi/{name}@{version}"
    found: dict[str, Any] = {
        "type": "library", "bom-ref": f"{name}@{version}", "name": name, "version": version, "purl": purl,
    }  # fmt: skip
    if licences := _licences(name):
        found["licenses"] = licences
    # Why there: each of them is a file of this release; "hashes" would be one file's.
    found["externalReferences"] = [
        {"type": "distribution", "url": purl, "hashes": [{"alg": "SHA-256", "content": one}]}
        for one in hashes
    ]
    return found


def _licences(name: str) -> list[dict[str, Any]]:
    """Return what *name* says of its licence: an expression, else the names it gives; [] when not installed."""
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return []
    if expression := about.get("License-Expression"):
        return [{"expression": expression}]
    named = [one.removeprefix(_PREFIX) for one in about.get_all("Classifier", []) if one.startswith(_PREFIX)]
    if not named and (text := (about.get("License") or "").strip()) and "\n" not in text:
        named = [text]
    return [{"license": {"name": one}} for one in named]


def _needs(name: str, known: Iterable[str]) -> set[str]:
    """Return the packages of *known* that *name* asks for."""
    try:
        asked = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return set()
    names = {normal(match[0]) for one in asked if (match := _NEEDED.match(one))}
    return names & set(known) - {name}


def main(path: str) -> None:
    """Write the bill to *path*."""
    found = bill((ROOT / "requirements.lock").read_text(), __version__)
    Path(path).write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    print(f"{path}: {len(found['components'])} components")


if __name__ == "__main__":
    main(*sys.argv[1:])
