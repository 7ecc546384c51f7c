"""The files of infra/ are what their readers expect, as far as that can be told without a cluster.

Kubernetes' own kinds, and the pod templates inside KubeRay's, are held against the published schemas. KubeRay's CRDs
are in no package, so its own fields are held against the lists below, which were read off its published types
(ray-operator/apis/ray/v1, rayjob_types.go and raycluster_types.go, November 2026).
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.config.models import load_config

PROJECT = Path(__file__).resolve().parents[2]
INFRA = PROJECT / "infra"
BIN = Path(sys.executable).parent
KUBERAY = sorted((INFRA / "kuberay").glob("*.yaml"))
SCRIPTS = sorted([*INFRA.rglob("*.sh"), *INFRA.rglob("*.sbatch")])

FIELDS = {  # of ray.io/v1
    "RayCluster": {"rayVersion", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs"},
    "RayJob": {
        *("entrypoint", "submissionMode", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit"),
        *("submitterPodTemplate", "rayClusterSpec"),
    },
    "headGroupSpec": {"serviceType", "rayStartParams", "template"},
    "workerGroupSpec": {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"},
}


def documents(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def ray_spec(document):
    return document["spec"].get("rayClusterSpec", document["spec"])


def groups(document):
    spec = ray_spec(document)
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


@pytest.mark.parametrize("path", KUBERAY, ids=lambda path: path.name)
def test_kubernetes_takes_the_manifests(path):
    import kubernetes_validate

    for document in documents(path):
        if document["apiVersion"] != "ray.io/v1":
            kubernetes_validate.validate(document, "1.34", strict=True)
            continue
        templates = [group["template"] for group in groups(document)]
        templates += [document["spec"]["submitterPodTemplate"]] if "submitterPodTemplate" in document["spec"] else []
        for template in templates:
            pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": template}
            kubernetes_validate.validate(pod, "1.34", strict=True)


@pytest.mark.parametrize("path", KUBERAY, ids=lambda path: path.name)
def test_kuberay_knows_the_fields(path):
    for document in documents(path):
        if document["apiVersion"] != "ray.io/v1":
            continue
        assert set(document["spec"]) <= FIELDS[document["kind"]]
        spec = ray_spec(document)
        assert set(spec) <= FIELDS["RayCluster"]
        assert set(spec["headGroupSpec"]) <= FIELDS["headGroupSpec"]
        for group in spec["workerGroupSpecs"]:
            assert set(group) <= FIELDS["workerGroupSpec"]
            assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        for group in groups(document):  # values of `ray start` are texts
            assert all(isinstance(value, str) for value in group["rayStartParams"].values())


@pytest.mark.parametrize("path", [p for p in KUBERAY if p.name != "cronjob.yaml"], ids=lambda path: path.name)
def test_pods_decode_where_the_configuration_says_and_run_as_nobody_special(path):
    for document in documents(path):
        spec = ray_spec(document)
        variables = {
            v["name"]: v.get("value") for v in spec["headGroupSpec"]["template"]["spec"]["containers"][0]["env"]
        }
        config = load_config(None, [], variables)
        offered = [json.loads(json.loads(g["rayStartParams"]["resources"])) for g in spec["workerGroupSpecs"]]
        assert [set(resources) for resources in offered] == [
            set(config.decode.resources),
            set(config.actors.resolved_pools()[0].resources),
        ]
        for group in groups(document):
            pod = group["template"]["spec"]
            assert pod["securityContext"]["runAsNonRoot"]
            assert variables["RAY_AUTH_MODE"] == "token"


def test_ray_up_takes_the_aws_cluster():
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((INFRA / "aws" / "cluster.yaml").read_text())
    validate_config({**prepare_config(config), "cluster_synced_files": []})
    types = config["available_node_types"]
    assert types["decode"]["resources"]["decode"] > 0
    assert "GPU" not in types["decode"]["resources"]
    assert "decode" not in types["annotate"]["resources"]
    assert all(
        types[name]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        for name in types
        if name != "head"
    )


def test_compose_takes_the_file_and_opens_ports_on_loopback_alone():
    from compose_spec import PyCompose

    file = INFRA / "compose" / "compose.yaml"
    content = yaml.safe_load(file.read_text())
    assert set(PyCompose.from_json(json.dumps(content)).service_names()) == set(content["services"])
    for service in content["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source in content["volumes"] or (file.parent / source).exists()


def test_prometheus_and_grafana_of_the_compose_file_are_wired():
    prometheus = yaml.safe_load((INFRA / "compose" / "prometheus.yml").read_text())
    (job,) = prometheus["scrape_configs"]
    assert job["dns_sd_configs"][0]["port"] == 8080
    services = yaml.safe_load((INFRA / "compose" / "compose.yaml").read_text())["services"]
    for name in job["dns_sd_configs"][0]["names"]:
        assert "--metrics-export-port=8080" in services[name]["command"]


def test_hadolint_takes_the_dockerfile():
    done = subprocess.run(
        [BIN / "hadolint", INFRA / "docker" / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_what_the_image_copies_is_there_and_is_let_through():
    copied = re.findall(r"^COPY (.+) \S+$", (INFRA / "docker" / "Dockerfile").read_text(), re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    let_through = (INFRA / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    assert names
    for name in names:
        assert (PROJECT / name).exists()
        assert f"!{name}" in let_through


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_takes_the_scripts(script):
    done = subprocess.run([BIN / "shellcheck", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_held_night_is_not_tried_again_the_same_night():
    (job,) = documents(INFRA / "kuberay" / "nightly-rayjob.yaml")
    assert job["spec"]["backoffLimit"] == 0


@pytest.mark.parametrize("folder", sorted(p.name for p in INFRA.iterdir() if p.is_dir()))
def test_each_deployment_says_what_it_needs_costs_and_how_to_take_it_down(folder):
    text = (INFRA / folder / "README.md").read_text()
    assert all(f"**{word}**" in text for word in ("Prerequisites", "Costs", "Tear down"))
    assert text.count("```sh") >= 1
    assert len(text.splitlines()) < 60
