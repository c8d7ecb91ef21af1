"""deploy/kubernetes against the schemas of Kubernetes, and its parts against each other and the gateway."""

import re
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from gateway.build import check
from gateway.config import load

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "deploy/kubernetes"
VERSIONS = ("1.27", kubernetes_validate.latest_version())
COMPONENTS = ("receiver", "worker", "topology")


def documents():
    """Return every object in the folder; KEDA's own kinds and kustomize's file aside."""
    files = [
        path
        for path in sorted(FOLDER.glob("*.yaml"))
        if path.name not in ("kustomization.yaml", "config.yaml")
    ]
    return [one for path in files for one in yaml.safe_load_all(path.read_text())]


OBJECTS = [one for one in documents() if not one["apiVersion"].startswith("keda.sh/")]


def named(kind, ending=""):
    return next(one for one in OBJECTS if one["kind"] == kind and one["metadata"]["name"].endswith(ending))


def pods():
    """Return the pod templates by component."""
    found = [one["spec"]["template"] for one in OBJECTS if "template" in one.get("spec", {})]
    return {one["metadata"]["labels"]["app.kubernetes.io/component"]: one for one in found}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("one", OBJECTS, ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_it_fits_the_schema(one, version):
    """No key that this Kubernetes does not know, no value of another type."""
    kubernetes_validate.validate(one, version, strict=True)


def test_a_wrong_key_would_be_noticed():
    """The validator is strict."""
    wrong = {**named("StatefulSet"), "spec": {**named("StatefulSet")["spec"], "replica": 2}}

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("name", COMPONENTS)
def test_pods_are_confined(name):
    """As Kubernetes' "restricted" asks, and with a read-only root besides; the user is the image's."""
    spec = pods()[name]["spec"]
    (container,) = spec["containers"]
    user = re.search(r"^USER (\d+):", (ROOT / "deploy/docker/Dockerfile").read_text(), re.MULTILINE)[1]

    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == spec["securityContext"]["fsGroup"] == int(user)
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_selectors_choose_pods():
    """Services, budgets, policies and the sets themselves choose labels that exactly one kind of pod has."""
    labels = [pod["metadata"]["labels"] for pod in pods().values()]
    specs = [one["spec"] for one in OBJECTS if "spec" in one]
    found = [spec[key] for spec in specs for key in ("selector", "podSelector") if key in spec]
    selectors = [one.get("matchLabels", one) for one in found]

    assert len(selectors) == 9
    for selector in selectors:
        assert sum(selector.items() <= one.items() for one in labels) == 1, selector


def test_ports_probes_and_mounts_have_their_names():
    """What is referred to by a name is there."""
    for component, pod in pods().items():
        (container,) = pod["spec"]["containers"]
        ports = {port["name"] for port in container.get("ports", ())}
        probes = [container[key] for key in container if key.endswith("Probe")]
        volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
        if component == "receiver":
            volumes |= {
                claim["metadata"]["name"] for claim in named("StatefulSet")["spec"]["volumeClaimTemplates"]
            }

        assert len(probes) == (0 if component == "topology" else 3)
        assert {probe["httpGet"]["port"] for probe in probes} <= ports
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    targets = [
        port["targetPort"] for one in OBJECTS if one["kind"] == "Service" for port in one["spec"]["ports"]
    ]
    assert set(targets) <= {port["name"] for port in pods()["receiver"]["spec"]["containers"][0]["ports"]}


@pytest.mark.parametrize("name", COMPONENTS)
def test_the_configuration_is_right(name):
    """With the secret's values config.yaml is a valid configuration; ports are those of the pods; the journal fits."""
    secret = named("Secret")["stringData"]
    (container,) = pods()[name]["spec"]["containers"]
    environ = {
        one["name"]: one.get("value") or secret[one["valueFrom"]["secretKeyRef"]["key"]]
        for one in container["env"]
    }
    config = load(FOLDER / "config.yaml", {**environ, "IM_TOKEN": "0123456789abcdef"})
    ports = {port["name"]: port["containerPort"] for port in container.get("ports", ())}
    claim = named("StatefulSet")["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"][
        "storage"
    ]

    assert check(config, serves=name == "receiver") == []
    assert config.broker.declare == ("apply" if name == "topology" else "check")
    assert ports.get("callbacks", config.listen.port) == config.listen.port
    assert ports.get("admin") in (None, config.admin.worker_port if name == "worker" else config.admin.port)
    assert config.journal.max_mb + config.journal.min_free_mb < int(claim.removesuffix("Gi")) * 1024


def test_a_receiver_has_time_to_stop():
    """The pod may take longer than draining and what comes after it, 25 s."""
    drain_s = load(None, {}).listen.drain_s

    assert pods()["receiver"]["spec"]["terminationGracePeriodSeconds"] > drain_s + 25


def test_workers_are_not_more_than_partitions():
    """KEDA looks at each partition's queue, and starts no worker that would have none."""
    scaled = next(one for one in documents() if one["kind"] == "ScaledObject")["spec"]
    partitions = yaml.safe_load((FOLDER / "config.yaml").read_text())["sinks"]["crm"]["partitions"]
    queues = [trigger["metadata"]["queueName"] for trigger in scaled["triggers"]]

    assert scaled["maxReplicaCount"] == partitions
    assert queues == [f"im.sink.crm.p{partitions}.{number}" for number in range(partitions)]
    assert scaled["scaleTargetRef"]["name"] == named("Deployment")["metadata"]["name"]


def test_kustomize_names_what_there_is():
    """Each resource is a file, and what stands in the folder and is no resource says so itself."""
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    listed = set(kustomization["resources"])
    others = {"kustomization.yaml", "config.yaml", "secret.example.yaml", "worker-scaling.yaml"}

    assert listed | others == {path.name for path in FOLDER.glob("*.yaml")}
