"""Files for clusters: scripts and manifests are run here with stand-ins, and our parser takes the commands in them."""

import importlib
import re
import subprocess

import pytest
import yaml
from folders import ROOT

import jaxppo
from jaxppo.cli.main import main
from jaxppo.config.shipped import shipped
from jaxppo.monte_carlo import from_run
from jaxppo.run import rendezvous

FOLDER = ROOT / "configs" / "cluster"
SCRIPTS, MANIFESTS = sorted(FOLDER.glob("*.sbatch")), sorted(FOLDER.glob("*.yaml"))
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NAME": "jaxppo",
    "SLURM_JOB_NODELIST": "node[0-3]",
    "SLURM_JOB_NUM_NODES": "4",
    "SLURM_CPUS_PER_TASK": "16",
    "PATHS": "1000",
    "WAIT": "0",
}
SBATCH = {
    "job-name", "nodes", "ntasks", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "time", "signal", "requeue",
    "open-mode", "output", "no-kill",
}  # fmt: skip
"""Options of sbatch that are used, as its manual has them."""
FIELDS = {
    "": {"apiVersion", "kind", "metadata", "spec"},
    "metadata": {"name", "annotations", "labels", "namespace"},
    "spec": {
        "replicatedJobs", "network", "successPolicy", "failurePolicy", "startupPolicy", "suspend", "coordinator",
        "managedBy", "ttlSecondsAfterFinished",
    },
    "spec.network": {"enableDNSHostnames", "subdomain", "publishNotReadyAddresses"},
    "spec.successPolicy": {"operator", "targetReplicatedJobs"},
    "spec.failurePolicy": {"maxRestarts", "restartStrategy", "rules"},
    "spec.failurePolicy.rules": {"name", "action", "targetReplicatedJobs", "onJobFailureReasons"},
    "spec.replicatedJobs": {"name", "groupName", "replicas", "template", "dependsOn"},
    "spec.replicatedJobs.template": {"metadata", "spec"},
    "spec.replicatedJobs.template.spec": {
        "completionMode", "parallelism", "completions", "backoffLimit", "podFailurePolicy", "template",
        "activeDeadlineSeconds", "ttlSecondsAfterFinished",
    },
    "spec.replicatedJobs.template.spec.podFailurePolicy": {"rules"},
    "spec.replicatedJobs.template.spec.podFailurePolicy.rules": {"action", "onExitCodes", "onPodConditions"},
    "spec.replicatedJobs.template.spec.podFailurePolicy.rules.onExitCodes": {"containerName", "operator", "values"},
    "spec.replicatedJobs.template.spec.template": {"metadata", "spec"},
    "spec.replicatedJobs.template.spec.template.spec": {
        "restartPolicy", "terminationGracePeriodSeconds", "nodeSelector", "containers", "volumes", "tolerations",
    },
    "spec.replicatedJobs.template.spec.template.spec.containers": {
        "name", "image", "command", "args", "env", "ports", "resources", "volumeMounts",
    },
    "spec.replicatedJobs.template.spec.template.spec.volumes": {"name", "persistentVolumeClaim", "emptyDir"},
}  # fmt: skip
"""Fields of a JobSet v1alpha2, and of jobs and pods as far as they are used, by their place."""


@pytest.fixture
def stubs(tmp_path):
    """Runs a bash script with stand-ins of jaxppo, srun, scontrol and ray; returns what was called."""
    folder, calls = tmp_path / "bin", tmp_path / "calls"
    folder.mkdir()
    record = f'printf "%s\\0" "${{0##*/}}" "$@" >>{calls}; printf "\\n" >>{calls}\n'
    bodies = {
        "jaxppo": record + 'exit "${CODE:-0}"\n',
        "ray": record,
        "scontrol": record + '[ "$1" != show ] || printf "node0\\nnode1\\n"\n',
        "srun": 'while [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"\n',
    }
    for name, body in bodies.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{body}")
        (folder / name).chmod(0o755)

    def run(*command, **environment):
        path = f"{folder}:/usr/bin:/bin"
        done = subprocess.run(
            ["bash", *command],
            cwd=tmp_path,
            env={"PATH": path, **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
        lines = calls.read_text().splitlines() if calls.exists() else []
        calls.unlink(missing_ok=True)
        return done.returncode, [line.rstrip("\0").split("\0") for line in lines], done.stderr

    return run


@pytest.fixture
def parsed(monkeypatch):
    """Feeds a command line to our parser; returns what would be run, and how the processes are joined."""
    found = {}

    def train(config, **options):
        found.update(options, config=config)
        raise KeyboardInterrupt  # the end

    def join(coordinator, processes, process, **_):
        found["join"] = (coordinator, processes, process)
        if processes != "auto":  # what is wrong with them is an error
            rendezvous._number("--process", process, 0, rendezvous._number("--processes", processes, 1, 2**16) - 1)
            rendezvous._address(coordinator)
        return 0, 1

    def run_monte_carlo(folder, n_paths, **options):
        found.update(options, folder=folder, n_paths=n_paths)
        raise KeyboardInterrupt

    def merge(folders, output):
        found.update(folders=folders, output=output)
        raise KeyboardInterrupt

    monkeypatch.setattr(jaxppo, "train", train)
    monkeypatch.setattr(rendezvous, "join", join)
    for module in (jaxppo.monte_carlo, from_run):
        monkeypatch.setattr(module, "run_monte_carlo", run_monte_carlo)
    monkeypatch.setattr(jaxppo.monte_carlo, "merge", merge)
    cores = importlib.import_module("jaxppo.cli.commands.monte_carlo")
    monkeypatch.setattr(cores, "a_device_for_each_core", lambda: None)

    def parse(command, capsys):
        found.clear()
        assert command[0] == "jaxppo"
        assert main(command[1:]) == 130, capsys.readouterr().err
        return dict(found)

    return parse


def ours(calls):
    return next(call for call in calls if call[0] == "jaxppo")


def test_no_file_of_a_cluster_is_taken_for_a_configuration():
    assert [path.name for path in SCRIPTS] == ["monte-carlo-ray.sbatch", "monte-carlo.sbatch", "train.sbatch"]
    assert [path.name for path in MANIFESTS] == ["monte-carlo-ray.yaml", "train-gpu.yaml", "train-tpu.yaml"]
    assert not {path.stem for path in MANIFESTS} & set(shipped())


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_bash_with_options_of_sbatch_before_its_first_command(path):
    text = path.read_text()
    assert subprocess.run(["bash", "-n", str(path)], capture_output=True).returncode == 0
    head, _, body = text.partition("set -euo pipefail\n")
    assert body
    assert "#SBATCH" not in body
    assert set(re.findall(r"^#SBATCH --([a-z-]+)", head, re.M)) <= SBATCH
    assert all(line.startswith("#") for line in head.splitlines() if line)


def test_slurm_trains_and_goes_on(stubs, parsed, capsys, tmp_path):
    script, run = str(FOLDER / "train.sbatch"), tmp_path / "runs" / "first"
    given = ("--config", "quickstart", "--ppo.learning-rate", "1e-3")
    code, calls, _ = stubs(script, *given, **SLURM, RUN=str(run))
    assert code == 0
    assert len(calls) == 1
    found = parsed(ours(calls), capsys)
    assert found["join"] == (None, "auto", None)
    assert (found["output"], found["resume"]) == (str(run), False)
    assert found["config"].ppo.learning_rate == 1e-3
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    code, calls, _ = stubs(script, *given, **SLURM, RUN=str(run), CODE="75")
    assert code == 75
    assert parsed(ours(calls), capsys)["resume"]
    assert ["scontrol", "requeue", "7"] in calls
    code, calls, _ = stubs(script, *given, **SLURM, RUN=str(run), CODE="2")
    assert (code, len(calls)) == (2, 1), "a user's mistake is not tried again"


def test_slurm_shards_and_merges(stubs, parsed, capsys, tmp_path):
    script = str(FOLDER / "monte-carlo.sbatch")
    array = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "16"}
    _, calls, _ = stubs(script, "--scale-costs", "0.5", "2", **SLURM, **array, RUN=str(tmp_path))
    found = parsed(ours(calls), capsys)
    assert found["shard"] == (3, 16)
    assert found["output"] == f"{tmp_path}/shards/3"
    assert found["n_paths"] == 1000
    assert found["stress"] == {"scale_costs": [0.5, 2.0]}
    for shard in range(2):
        (tmp_path / "shards" / str(shard)).mkdir(parents=True)
    _, calls, _ = stubs(script, **SLURM, RUN=str(tmp_path))
    found = parsed(ours(calls), capsys)
    assert found == {"folders": [f"{tmp_path}/shards/{i}" for i in range(2)], "output": f"{tmp_path}/monte_carlo"}


def test_slurm_starts_ray_and_computes_on_it(stubs, parsed, capsys, tmp_path):
    _, calls, err = stubs(str(FOLDER / "monte-carlo-ray.sbatch"), **SLURM, RUN=str(tmp_path))
    found = parsed(ours(calls), capsys)
    assert found["ray"] == "node0:6379", err
    assert sorted(call for call in calls if call[0] == "ray") == [
        ["ray", "start", "--address=node0:6379", "--num-cpus=16", "--block"],
        ["ray", "start", "--head", "--port=6379", "--num-cpus=16", "--block"],
    ]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_manifest_has_the_fields_of_a_jobset(path):
    manifest = yaml.safe_load(path.read_text())
    check_fields(manifest)
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    jobs = manifest["spec"]["replicatedJobs"]
    names = {job["name"] for job in jobs}
    assert set(manifest["spec"].get("successPolicy", {}).get("targetReplicatedJobs", names)) <= names
    for job in jobs:
        of = job["template"]["spec"]
        assert of["completionMode"] == "Indexed"
        assert of["parallelism"] == of["completions"]
        pod = of["template"]["spec"]
        assert pod["restartPolicy"] == "Never" or "podFailurePolicy" not in of
        containers = {container["name"] for container in pod["containers"]}
        rules = of.get("podFailurePolicy", {}).get("rules", [])
        assert {rule["onExitCodes"]["containerName"] for rule in rules} <= containers
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


def check_fields(value, place=""):
    """Refuses a field that is not in `FIELDS`, wherever that says which there are."""
    if isinstance(value, list):
        for one in value:
            check_fields(one, place)
    elif isinstance(value, dict):
        assert place not in FIELDS or set(value) <= FIELDS[place], place
        for name, one in value.items():
            check_fields(one, f"{place}.{name}".strip("."))


def containers_of(name):
    """Replicated job -> its container, and how many pods it has."""
    manifest = yaml.safe_load((FOLDER / name).read_text())
    jobs = {job["name"]: job["template"]["spec"] for job in manifest["spec"]["replicatedJobs"]}
    return manifest["metadata"]["name"], {
        job: (spec["template"]["spec"]["containers"][0], spec["completions"]) for job, spec in jobs.items()
    }


def run_container(stubs, container, **environment):
    assert container["command"][0] == "bash"
    _, calls, err = stubs(*container["command"][1:], *container["args"], **environment)
    assert calls, err
    return calls


def test_kubernetes_trains_on_gpus(stubs, parsed, capsys):
    name, jobs = containers_of("train-gpu.yaml")
    container, n = jobs["workers"]
    for index in range(n):
        found = parsed(ours(run_container(stubs, container, JOB_COMPLETION_INDEX=str(index))), capsys)
        assert found["join"] == (f"{name}-workers-0-0.{name}:1234", str(n), str(index))
        assert not found["resume"]
    assert container["ports"] == [{"containerPort": 1234}]


def test_kubernetes_trains_on_a_tpu_slice(stubs, parsed, capsys):
    _, jobs = containers_of("train-tpu.yaml")
    container, n = jobs["slice"]
    assert parsed(ours(run_container(stubs, container)), capsys)["join"] == (None, "auto", None)
    pod = yaml.safe_load((FOLDER / "train-tpu.yaml").read_text())["spec"]["replicatedJobs"][0]["template"]["spec"]
    rows, columns = pod["template"]["spec"]["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    assert int(rows) * int(columns) == n * container["resources"]["limits"]["google.com/tpu"]


def test_kubernetes_computes_on_ray(stubs, parsed, capsys):
    name, jobs = containers_of("monte-carlo-ray.yaml")
    calls = run_container(stubs, jobs["head"][0])
    assert calls[0] == ["ray", "start", "--head", "--port=6379", "--num-cpus=0"]
    found = parsed(ours(calls), capsys)
    assert (found["ray"], found["n_paths"]) == ("auto", 1_000_000)
    calls = run_container(stubs, jobs["workers"][0])
    assert calls == [["ray", "start", f"--address={name}-head-0-0.{name}:6379", "--num-cpus=4", "--block"]]
