"""What Terraform's files say: no way in but HTTPS and IAP, no key, no role that no call needs, groups of size 0.

They can't be applied here. Arguments were compared with the pinned provider's own declarations when they were written;
docs/GOOGLE_CLOUD.md lists what only a real project shows.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from importlib.util import find_spec
from ipaddress import ip_network
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from jsonschema import Draft202012Validator

from deploy.pages import pages_key
from engine import approvals, ledger, records
from engine.artifact import ArtifactStore
from engine.fingerprint import ROOT
from engine.prices import PRICES, load_prices
from engine.store import FolderStore
from flows import capacity, ends
from flows.changes import FOLDER as RETRAINS
from flows.google_cloud import PAGE_URL, VERTEX
from flows.plan import load_experiment
from flows.pools import RENTED
from images.build import Pushed
from images.table import IMAGES
from retain.rollout import lease_key, rollout_key
from tests.flows.test_platform import stated_secrets
from tests.infra.hcl import FILES, FOLDER, Block, blocks, data_sources, local_values, resources, text

STARTUP = ROOT / "infra" / "startup"
LOCALS, RESOURCES, VARIABLES = local_values(), resources(), blocks("variable")
TEMPLATE = RESOURCES["google_compute_instance_template"]["pool"]
GROUP = RESOURCES["google_compute_region_instance_group_manager"]["pool"]
RESIDENT = RESOURCES["google_compute_instance"]["resident"]
BUCKET = RESOURCES["google_storage_bucket"]["retain"]
GOOGLES_OWN = {"35.235.240.0/20", "130.211.0.0/22", "35.191.0.0/16"}  # IAP; load balancer and its health checks
TERRAFORM = pytest.mark.skipif(shutil.which("terraform") is None, reason="terraform isn't installed")


def named(kind: str) -> dict[str, Block]:
    """The grants of one kind, without what the parser adds."""
    return {name: grant for name, grant in LOCALS[kind].items() if not name.startswith("__")}


GRANTS = {f"{kind} {name}": grant for kind in LOCALS if kind.endswith("_grants") for name, grant in named(kind).items()}


def pools() -> dict[str, Block]:
    return {name: pool for name, pool in LOCALS["pools"].items() if not name.startswith("__")}


# -- ways in


def test_no_machine_has_a_public_address() -> None:
    machines = [TEMPLATE, RESIDENT]
    assert {kind for kind in RESOURCES if re.search("instance(_template|_from_.*)?$", kind)} == {
        "google_compute_instance",
        "google_compute_instance_template",
    }
    for machine in machines:
        (interface,) = machine["network_interface"]
        assert {key for key in interface if not key.startswith("__")} == {"subnetwork"}
    assert "access_config" not in text()
    assert {kind for kind in RESOURCES if kind.endswith("_address")} == {"google_compute_global_address"}


def test_the_one_public_address_speaks_https_alone() -> None:
    addresses = RESOURCES["google_compute_global_address"]
    assert [name for name, body in addresses.items() if body.get("address_type") != "INTERNAL"] == ["service"]
    (rule,) = RESOURCES["google_compute_global_forwarding_rule"].values()
    assert rule["port_range"] == "443"
    assert rule["ip_address"] == "${google_compute_global_address.service[each.key].address}"
    assert {kind for kind in RESOURCES if kind.endswith(("_forwarding_rule", "_proxy"))} == {
        "google_compute_global_forwarding_rule",
        "google_compute_target_https_proxy",
    }
    assert RESOURCES["google_compute_ssl_policy"]["service"]["min_tls_version"] == "TLS_1_2"


def test_another_domain_changes_what_the_address_stands_for() -> None:
    """Were they made anew for it, their names would be taken until the old ones are gone."""
    for kind in ("global_address", "managed_ssl_certificate", "target_https_proxy", "global_forwarding_rule"):
        assert RESOURCES[f"google_compute_{kind}"]["service" if kind != "global_forwarding_rule" else "https"][
            "for_each"
        ] == ("${local.https}")
    assert LOCALS["https"] == '${var.domain == null ? toset([]) : toset(["https"])}'
    certificate = RESOURCES["google_compute_managed_ssl_certificate"]["service"]
    assert "var.domain" in certificate["name"]
    assert certificate["lifecycle"][0]["create_before_destroy"] is True


@pytest.mark.parametrize("name", RESOURCES["google_compute_firewall"])
def test_a_firewall_lets_in_googles_ranges_or_our_own_machines(name: str) -> None:
    rule = RESOURCES["google_compute_firewall"][name]
    peering = RESOURCES["google_compute_global_address"]["vertex"]
    jobs = {f"{peering['address']}/{peering['prefix_length']}"}
    assert rule["direction"] == "INGRESS"
    sources = rule.get("source_ranges", [])
    assert set(sources) <= (jobs if name == "vertex" else GOOGLES_OWN)
    assert bool(sources) != bool(rule.get("source_service_accounts"))
    ports = {port for allow in rule["allow"] for port in allow["ports"]}
    assert ports
    if ports != {"22"}:  # to the one machine that answers there
        (target,) = rule["target_service_accounts"]
        assert target == f'${{google_service_account.account["{"host" if "4200" in ports else "serve"}"].email}}'


def test_ranges_of_addresses_do_not_overlap() -> None:
    peering = RESOURCES["google_compute_global_address"]["vertex"]
    ours = ip_network(RESOURCES["google_compute_subnetwork"]["retain"]["ip_cidr_range"])
    assert not ours.overlaps(ip_network(f"{peering['address']}/{peering['prefix_length']}"))


def test_the_balancer_reaches_the_replicas_where_compose_publishes_them() -> None:
    services = yaml.safe_load((ROOT / "deploy" / "compose.cloud.yaml").read_text())["services"]
    published = {port.split(":")[-2] for name in ("serve-1", "serve-2") for port in services[name]["ports"]}
    (allow,) = RESOURCES["google_compute_firewall"]["balancer"]["allow"]
    replicas = re.findall(r'"(\d+)"', RESOURCES["google_compute_network_endpoint"]["replica"]["for_each"])
    assert set(allow["ports"]) == set(replicas) == published


# -- keys and roles


def test_no_key_is_made_and_no_secret_has_a_value() -> None:
    kinds = {"google_service_account_key", "google_secret_manager_secret_version", "random_password", "tls_private_key"}
    assert not kinds & RESOURCES.keys()
    for path in (*FILES, FOLDER / "example.tfvars", *STARTUP.glob("*.sh")):
        content = path.read_text(encoding="utf-8")
        assert stated_secrets(content) == [], path
        assert re.findall(r"-----BEGIN|AIza[\w-]{30}|ya29\.|[0-9a-f]{32}", content) == [], path
    assert "sensitive" not in text()


def test_a_secret_that_terraform_would_keep_is_found() -> None:
    assert stated_secrets('POSTGRES_PASSWORD = "x"\n') != []


@pytest.mark.parametrize("name", GRANTS)
def test_a_role_is_needed_by_a_named_call(name: str) -> None:
    """The file that makes the call is named."""
    grant = GRANTS[name]
    assert grant["call"].split(":")[0].strip()
    (path,) = re.findall(r"\(([\w./-]+\.\w+)\)", grant["call"])
    assert (ROOT / path).is_file()
    if grant["role"].startswith("roles/"):
        broad = {"roles/owner", "roles/editor", "roles/viewer"}
        assert grant["role"] not in broad
        assert not grant["role"].lower().endswith("admin") or grant["role"] == "roles/compute.osAdminLogin"


def _installed(module: str) -> str:
    found = find_spec(module)
    assert found is not None
    assert found.origin is not None
    return found.origin


VERTEX_WORKER = _installed("prefect_gcp.workers.vertex")
# Of roles of our own: permission -> the file that calls what needs it, and a word of that call.
CALLS = {
    "retainBucketLook": {"storage.buckets.get": ("engine/bucket.py", "get_bucket")},
    "retainWorkerLeave": {"compute.instanceGroupManagers.update": ("infra/startup/worker.sh", "/deleteInstances")},
    "retainHostGrow": {
        "compute.acceleratorTypes.list": ("flows/capacity.py", "/aggregated/acceleratorTypes"),
        "compute.instanceGroupManagers.get": ("flows/capacity.py", "/instanceGroupManagers/"),
        "compute.instanceGroupManagers.update": ("flows/capacity.py", "/resize"),
        "compute.projects.get": ("flows/capacity.py", 'cloud.ask("")'),
        "compute.regions.get": ("flows/capacity.py", 'f"/regions/{cloud.region}"'),
    },
    "retainVertexRun": {
        "aiplatform.customJobs.create": (VERTEX_WORKER, "job_service_async_client.create_custom_job"),
        "aiplatform.customJobs.get": (VERTEX_WORKER, "job_service_async_client.get_custom_job"),
        "aiplatform.customJobs.cancel": (VERTEX_WORKER, "job_service_async_client.cancel_custom_job"),
    },
    "retainOperatorGrow": {
        "compute.instanceGroupManagers.get": ("docs/GOOGLE_CLOUD.md", "managed resize"),
        "compute.instanceGroupManagers.update": ("docs/GOOGLE_CLOUD.md", "managed resize"),
    },
}


@pytest.mark.parametrize("role", RESOURCES["google_project_iam_custom_role"].values(), ids=lambda role: role["role_id"])
def test_a_role_of_our_own_has_the_permissions_of_its_calls(role: dict[str, list[str]]) -> None:
    calls = CALLS[str(role["role_id"])]
    assert sorted(role["permissions"]) == sorted(calls)
    for path, call in calls.values():
        assert call in (ROOT / path).read_text()


def test_prefects_worker_makes_no_other_call_of_vertex() -> None:
    called = set(re.findall(r"\bjob_service_async_client\.(\w+)\(", Path(VERTEX_WORKER).read_text()))
    assert called == {"create_custom_job", "get_custom_job", "cancel_custom_job"}


PLACES = {place: begins for place, begins in LOCALS["places"].items() if not place.startswith("__")}


def may_write(grants: dict[str, Block], account: str, key: str) -> bool:
    """By the conditions, as identity.tf puts them together."""
    where = {
        each["where"]
        for each in grants.values()
        if each.get("account") == account and each["role"] == "roles/storage.objectUser"
    }
    of = {place for place, begins in PLACES.items() if key.startswith(tuple(begins))}
    return None in where or bool(of & where) or ("stages" in where and not of)


def _keys(store: FolderStore) -> list[str]:
    return [str(path.relative_to(store.root)) for path in store.root.rglob("*.json")]


def keys_of_people() -> dict[str, str]:
    """key -> what it is, as the code that writes it says."""
    with TemporaryDirectory() as folder:
        store = FolderStore(Path(folder))
        approvals.show(store, ["a text"])
        approvals.record(store, "a text", "approved", "Ann")
        said = dict.fromkeys(_keys(store), "approvals")
    with TemporaryDirectory() as folder:
        store = FolderStore(Path(folder))
        ledger.set_cap(store, "retrain/2026-12", 5.0)
        return said | dict.fromkeys(_keys(store), "ledger")


DECIDED = dict.fromkeys((rollout_key("local"), lease_key("local"), pages_key("local")), "rollout") | keys_of_people()
PREFIX = ArtifactStore(FolderStore(Path("nowhere")), "local").prefix("risk", "f" * 32)
MADE = [
    *(f"{PREFIX}/{name}" for name in ("manifest.json", "claim.json")),
    records.key(PREFIX, 1),
    "local/current.json",
    f"{ends.FOLDER}/x",
]


def test_every_account_writes_what_it_has_to() -> None:
    grants, people = named("bucket_grants"), {"account": "people"}
    of_people = {name: grant | people for name, grant in named("operator_bucket_grants").items()}
    assert LOCALS["store"] == "gs://${local.bucket}/${local.below}"
    assert LOCALS["below"] == "store"
    assert len(DECIDED) == 6
    assert all(may_write(grants, "host", key) for key in (*DECIDED, *MADE))
    for account in ("worker", "vertex"):
        assert [key for key in MADE if not may_write(grants, account, key)] == []
        assert [key for key in (*DECIDED, f"{RETRAINS}/local/readings.json") if may_write(grants, account, key)] == []
    assert {kind for key, kind in DECIDED.items() if may_write(grants, "serve", key)} == {"rollout"}
    assert not any(may_write(grants, "serve", key) for key in MADE)
    written = {key for key, kind in DECIDED.items() if may_write(of_people, "people", key)}
    assert written == {key for key, kind in DECIDED.items() if kind in ("approvals", "ledger")}
    assert not any(may_write(of_people, "people", key) for key in MADE)


def test_whoever_writes_in_one_place_reads_everywhere() -> None:
    for grants in (named("bucket_grants"), named("operator_bucket_grants")):
        roles = {each["role"] for each in grants.values() if each["where"] is None and each.get("account") != "host"}
        assert roles == {"roles/storage.objectViewer"}


@TERRAFORM
def test_conditions_are_as_google_wants_them(tmp_path: Path) -> None:
    """Evaluated by Terraform itself, with the bucket's name."""
    source = (FOLDER / "identity.tf").read_text()
    own = source[source.index("  places = {") : source.index("  # `where`:")]
    (tmp_path / "main.tf").write_text(f'locals {{\n  bucket = "b"\n  below = "store"\n{own}}}\n')
    done = subprocess.run(
        ["terraform", "console"],
        cwd=tmp_path,
        input="jsonencode(local.conditions)\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    conditions = json.loads(json.loads(done.stdout))
    assert conditions["ledger"] == 'resource.name.startsWith("projects/_/buckets/b/objects/store/ledger/")'
    assert conditions["approvals"].count(" || ") == 1
    assert set(conditions) == {*PLACES, "stages"}
    stages = conditions["stages"]
    assert stages.startswith('resource.name.startsWith("projects/_/buckets/b/objects/store/") && !(resource.name.')
    assert all(f"!({conditions[place]})" in stages for place in PLACES)
    assert len(re.findall(r"&&|\|\||!", stages)) <= 12
    for name in ("grant", "operator"):
        (dynamic,) = RESOURCES["google_storage_bucket_iam_member"][name]["dynamic"]
        assert dynamic["condition"]["content"][0]["expression"] == "${local.conditions[condition.value]}"


def test_every_grant_comes_from_the_list_and_adds_to_what_others_granted() -> None:
    granting = {kind: named for kind, named in RESOURCES.items() if "_iam_" in kind and "custom_role" not in kind}
    assert all(kind.endswith("_iam_member") for kind in granting)  # _binding and _policy would take others' away
    roles = {body["role"] for named in granting.values() for body in named.values()}
    assert roles == {
        "${each.value.role}",
        "${local.operator_grants[each.value[0]].role}",
        "${local.operator_bucket_grants[each.value[0]].role}",
        "${local.operator_secret_grants[each.value[0]].role}",
        "roles/iam.serviceAccountUser",  # of people, at the accounts of the machines; the comment there names the call
    }
    sources = "\n".join(body["for_each"] for named in granting.values() for body in named.values())
    assert set(re.findall(r"\blocal\.(\w+_grants)\b", sources)) == {kind for kind in LOCALS if kind.endswith("_grants")}


def test_every_machine_acts_as_an_account_of_its_own() -> None:
    accounts = {name for name in LOCALS["accounts"] if not name.startswith("__")}
    assert accounts == {"host", "worker", "serve", "vertex"}
    assert {grant["account"] for name, grant in GRANTS.items() if not name.startswith("operator")} == accounts
    (worker,), (resident,) = TEMPLATE["service_account"], RESIDENT["service_account"]
    assert worker["email"] == '${google_service_account.account["worker"].email}'
    assert resident["email"] == "${google_service_account.account[each.key].email}"
    machines = {name for name in LOCALS["machines"] if not name.startswith("__")}
    assert machines == accounts - {"worker", "vertex"}
    people = RESOURCES["google_service_account_iam_member"]["operator"]["for_each"]
    assert set(re.findall(r'"(\w+)"', people.partition(",")[0] + people.partition("[")[2].partition("]")[0])) == (
        machines | {"worker"}
    )


def test_vertex_takes_a_word() -> None:
    """Without it there is no account of its jobs, no right to start one, no network for them."""
    assert VARIABLES["vertex"]["default"] is False
    assert LOCALS["vertex"] == '${toset(var.vertex ? ["vertex"] : [])}'
    for kind in RESOURCES:
        if "vertex" in RESOURCES[kind] and kind != "google_project_iam_custom_role":
            assert RESOURCES[kind]["vertex"]["for_each"] == "${local.vertex}"
    filtered = 'if var.vertex || !startswith(name, "vertex")'
    loops = [body.get("for_each", "") for named in RESOURCES.values() for body in named.values()]
    for name, grant in GRANTS.items():
        kind, own_name = name.split(" ")
        if "vertex" in json.dumps(grant):
            assert own_name.startswith("vertex")
            assert any(f"local.{kind} : " in loop and filtered in loop for loop in loops)
    assert any("local.accounts : " in loop and filtered in loop for loop in loops)


def test_a_resource_waits_until_its_interface_is_turned_on() -> None:
    """By what it refers to, or by saying so. In a new project the first apply would fail otherwise."""
    texts = {f"{kind}.{name}": json.dumps(body) for kind, named in RESOURCES.items() for name, body in named.items()}
    texts |= {f"data.{kind}.{name}": json.dumps(body) for kind, name, body in data_sources()}
    texts |= {f"local.{name}": json.dumps(value) for name, value in LOCALS.items()}
    refers = {
        name: set(re.findall(r"\b(?:data\.google_\w+\.\w+|google_\w+\.\w+|local\.\w+)", text)) & texts.keys()
        for name, text in texts.items()
    }
    waits = {"google_project_service.used"}
    while more := {name for name in refers if name not in waits and refers[name] & waits}:
        waits |= more
    assert {name for name in texts if not name.startswith("local.")} - waits == set()


# -- groups


def test_groups_are_empty_until_somebody_grows_them() -> None:
    assert GROUP["target_size"] == 0
    assert GROUP["lifecycle"][0]["ignore_changes"] == ["target_size"]
    assert (
        GROUP["for_each"]
        == TEMPLATE["for_each"]
        == ("${{for name, pool in local.pools : name => pool if local.has_host}}")
    )


def test_a_machine_has_its_rights_when_it_is_made() -> None:
    """One of a pool would delete itself at once."""
    granting = {f"google_{kind}_iam_member" for kind in ("secret_manager_secret", "artifact_registry_repository")}
    for body in (GROUP, RESIDENT):
        waits_for = {each.strip("${}").partition(".")[0] for each in body["depends_on"]}
        assert granting | {"google_compute_router_nat"} <= waits_for
    assert "${google_project_iam_member.machine}" in GROUP["depends_on"]  # by which it deletes itself


def test_what_a_machine_says_outlives_it() -> None:
    assert LOCALS["every_machine"]["serial-port-logging-enable"] == "TRUE"
    for body in (TEMPLATE, RESIDENT):
        assert body["metadata"].startswith("${merge(local.every_machine, ")
    assert "logging.googleapis.com" in RESOURCES["google_project_service"]["used"]["for_each"]


def test_boot_images_keep_their_major_version() -> None:
    (boot,) = RESIDENT["boot_disk"]
    families = {LOCALS["cos"], VARIABLES["gpu_image"]["default"], boot["initialize_params"][0]["image"]}
    for family in families:
        assert re.search(r"/family/(cos-\d+-lts|debian-\d+|common-cu\d+-ubuntu-\d+-nvidia-\d+)$", family), family


def test_spot_machines_are_deleted_when_they_are_taken_away() -> None:
    kinds = {name: pool["scheduling"] for name, pool in pools().items()}
    assert kinds == {
        "cpu-spot": "${local.spot}",
        "gpu-spot": "${local.spot}",
        "gpu-on-demand": "${local.on_demand}",
    }
    spot, on_demand = LOCALS["spot"], LOCALS["on_demand"]
    assert (spot["provisioning_model"], spot["instance_termination_action"]) == ("SPOT", "DELETE")
    assert (spot["preemptible"], spot["automatic_restart"]) == (True, False)
    assert (on_demand["provisioning_model"], on_demand["preemptible"]) == ("STANDARD", False)
    (scheduling,) = TEMPLATE["scheduling"]
    for key in ("provisioning_model", "preemptible", "automatic_restart", "instance_termination_action"):
        assert scheduling[key] == f"${{each.value.scheduling.{key}}}"
    assert scheduling["on_host_maintenance"] == "TERMINATE"


def test_pools_are_those_of_the_deployments() -> None:
    """`docker` is the pool of parents, at Prefect's machine; `gpu-vertex` has no machine of ours."""
    stated = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    assert {each["work_pool"]["name"] for each in stated} == {*pools(), "docker", "gpu-vertex"}
    assert {*pools(), "gpu-vertex"} == RENTED.keys()
    for name, pool in pools().items():
        assert (pool["gpu"], "spot" in pool["scheduling"]) == (RENTED[name].gpu, RENTED[name].preemptible), name


def test_a_run_grows_the_groups_that_are_there() -> None:
    assert capacity.GROUP.format("${each.key}") == GROUP["name"]
    assert GROUP["region"] == "${var.region}"


def test_what_a_pool_is_billed_for_has_its_label() -> None:
    assert TEMPLATE["labels"] == TEMPLATE["disk"][0]["labels"] == {"retain-pool": "${each.key}"}
    assert "label.key = 'retain-pool'" in (ROOT / "docs" / "GOOGLE_CLOUD.md").read_text()


def test_machines_have_a_price() -> None:
    prices = load_prices()
    types = {name: VARIABLES[name]["default"] for name in VARIABLES if name.endswith("_machine")}
    assert types.keys() == {"cpu_machine", "gpu_machine", "resident_machine"}
    region = VARIABLES["region"]["default"]
    for name, machine in types.items():
        gpu = "nvidia-l4" if name == "gpu_machine" else None
        for preemptible in (False, True):
            assert prices.find(machine, gpu, region, preemptible=preemptible), name
    used = {pool["machine_type"] for pool in pools().values()} | {RESIDENT["machine_type"]}
    assert used == {f"${{var.{name}}}" for name in types}


DEPLOYED = sorted(
    each["parameters"]["experiment"]
    for each in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    if "parameters" in each
)


@pytest.mark.parametrize("experiment", DEPLOYED)
def test_a_run_is_metered_at_the_price_of_the_machines_that_there_are(experiment: str) -> None:
    """Nothing else compares them (docs/CONTAINERS.md)."""
    stated = load_experiment(experiment).costs
    assert (stated.machines.cpu.type, stated.machines.gpu.type, stated.region) == tuple(
        VARIABLES[name]["default"] for name in ("cpu_machine", "gpu_machine", "region")
    )


# -- what lasts


def test_the_bucket_keeps_older_versions_for_a_while_and_is_nobody_elses() -> None:
    assert BUCKET["versioning"][0]["enabled"] is True
    assert BUCKET["uniform_bucket_level_access"] is True
    assert BUCKET["public_access_prevention"] == "enforced"
    assert BUCKET["force_destroy"] is False
    rules = {rule["action"][0]["type"]: rule["condition"][0] for rule in BUCKET["lifecycle_rule"]}
    assert rules.keys() == {"Delete", "AbortIncompleteMultipartUpload"}
    # Never what is current: a rule by age alone would delete the artifacts.
    assert rules["Delete"]["with_state"] == "ARCHIVED"
    assert "age" not in rules["Delete"]


def test_databases_lie_on_disks_that_are_copied() -> None:
    (attached,) = RESIDENT["attached_disk"]
    assert attached["device_name"] == "retain-data"  # startup/resident.sh looks for it
    assert "google-retain-data" in (STARTUP / "resident.sh").read_text()
    # Whatever takes a machine away (no build/images.json, no domain) leaves its disk.
    disks = RESOURCES["google_compute_disk"]["data"]["for_each"]
    assert set(re.findall(r'"(\w+)"', disks)) == {name for name in LOCALS["machines"] if not name.startswith("__")}
    assert disks.startswith("${toset([")
    (copies,) = RESOURCES["google_compute_resource_policy"]["daily"]["snapshot_schedule_policy"]
    assert copies["snapshot_properties"][0]["labels"] == "${local.labels}"
    attachment = RESOURCES["google_compute_disk_resource_policy_attachment"]["daily"]
    assert attachment["for_each"] == "${google_compute_disk.data}"


def test_the_budget_is_about_this_project_by_its_number() -> None:
    """The interface answers with the number; by the id each apply would change the budget."""
    (budget,) = RESOURCES["google_billing_budget"]["retain"]["budget_filter"]
    assert budget["projects"] == ["projects/${data.google_project.this.number}"]


# -- files, variables, settings


def test_versions_are_exact() -> None:
    versions = (FOLDER / "versions.tf").read_text()
    pinned = re.findall(r'^ +version = "(.*)"$', versions, flags=re.MULTILINE)
    assert pinned
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in pinned)
    assert {kind.split("_")[0] for kind in RESOURCES} == {"google"}


@pytest.mark.parametrize("name", VARIABLES)
def test_a_variable_is_described_checked_and_used(name: str) -> None:
    assert VARIABLES[name]["description"].endswith(".")
    uses = len(re.findall(rf"\bvar\.{name}\b", text()))
    if name != "pushed_images" and VARIABLES[name]["type"] != "bool":  # fileexists() is the check of that one
        (validation,) = VARIABLES[name]["validation"]
        assert validation["error_message"].startswith(f"{name}: ")
        uses -= validation["condition"].count(f"var.{name}")
    assert uses > 0


def test_the_service_s_settings_are_those_that_compose_hands_on() -> None:
    replica = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]["serve-1"]["environment"]
    handed_on = {name for name, value in replica.items() if value is None}
    (validation,) = VARIABLES["service_settings"]["validation"]
    assert set(re.findall(r'"([A-Z_]+)"', validation["condition"])) == handed_on - {"ASSIGNMENT_KEY", "PSEUDONYM_KEY"}


def test_the_example_gives_every_variable_that_has_no_default() -> None:
    given = set(re.findall(r"^(\w+) +=", (FOLDER / "example.tfvars").read_text(), flags=re.MULTILINE))
    assert given == {name for name, body in VARIABLES.items() if "default" not in body} | {"domain"}


def test_files_that_are_read_exist() -> None:
    named = set(re.findall(r"\$\{path\.module\}/([\w./-]+\.\w+)", text()))
    assert {"../startup/common.sh", "../startup/worker.sh", "../prices.yaml"} <= named
    assert [name for name in named if not (FOLDER / name).is_file()] == []
    for machine in (LOCALS["machines"]["host"], LOCALS["machines"]["serve"]):
        folder = FOLDER / machine["folder"].removeprefix("${path.module}/")
        assert (STARTUP / machine["script"]).is_file()
        assert (folder / "compose.yaml").is_file()
        assert (folder / "compose.cloud.yaml").is_file()


def test_images_are_those_that_were_pushed() -> None:
    """What `make images PUSH=` writes has the reference where it is looked for."""
    assert "reference" in Pushed.model_fields
    assert "image.reference" in LOCALS["images"]
    names = set(re.findall(r'lookup\(local\.images, "(\w+)"|local\.images\["(\w+)"\]', text()))
    assert {first or second for first, second in names} == {"orchestrator", "serve"}
    assert {"orchestrator", "serve"} <= IMAGES.keys()
    assert VARIABLES["pushed_images"]["default"] == "../../build/images.json"


@pytest.mark.parametrize(
    ("scripts", "told"),
    [
        (("common", "worker"), [TEMPLATE["metadata"]]),
        (("common", "resident", "host"), [RESIDENT["metadata"], *LOCALS["machines"]["host"]["settings"]]),
        (("common", "resident", "serve"), [RESIDENT["metadata"], *LOCALS["machines"]["serve"]["settings"]]),
    ],
)
def test_a_script_asks_for_what_its_machine_is_told(scripts: tuple[str, ...], told: list[str]) -> None:
    content = "\n".join((STARTUP / f"{name}.sh").read_text() for name in scripts)
    asked = set(re.findall(r"\b(?:attribute|from_metadata|secret) (retain-[\w-]+)", content))
    assert asked == set(re.findall(r"\bretain-[a-z-]+(?= =|$)", "\n".join(told), flags=re.MULTILINE))


def test_secrets_are_those_that_machines_are_told_of() -> None:
    places = {name for name in LOCALS["secrets"] if not name.startswith("__")}
    assert set(re.findall(r'google_secret_manager_secret\.secret\["([\w-]+)"\]', text())) == places
    assert {grant["secret"] for grant in named("secret_grants").values()} == places
    assert f"retain-{GRANTS['operator_secret_grants page']['secret']}" == PAGE_URL  # which make deploy reads


def test_the_account_of_vertex_is_the_one_that_deployments_name() -> None:
    stated = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    (jobs,) = [each for each in stated if each["work_pool"]["name"] == VERTEX]
    (variable,) = re.findall(r"\$(\w+)", jobs["work_pool"]["job_variables"]["service_account_name"])
    accounts = re.findall(rf'"{variable}": f"(.*?)"', (ROOT / "flows" / "deploy.py").read_text())
    assert accounts == ["retain-vertex@{project}.iam.gserviceaccount.com"]
    assert RESOURCES["google_service_account"]["account"]["account_id"] == "retain-${each.key}"


@pytest.mark.parametrize("path", ["infra/compose.cloud.yaml", "deploy/compose.cloud.yaml"])
def test_what_compose_reads_besides_goes_with_it(path: str) -> None:
    schema = json.loads((ROOT / "tests" / "compose-spec" / "compose-spec.json").read_text())
    besides = yaml.safe_load((ROOT / path).read_text())
    assert [*Draft202012Validator(schema).iter_errors(besides)] == []
    base = (ROOT / path).parent / "compose.yaml"
    assert besides["services"].keys() <= yaml.safe_load(base.read_text())["services"].keys()
    if shutil.which("docker-compose") is None:
        pytest.skip("docker-compose isn't installed")
    command = ["docker-compose", "--file", str(base), "--file", str(ROOT / path), "config"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    for name, service in besides["services"].items():
        merged = yaml.safe_load(ended.stdout)["services"][name]
        assert service.get("environment", {}).keys() <= merged["environment"].keys()
        assert len(merged.get("ports", [])) == 2 * len(service.get("ports", []))


# -- Terraform itself, where it is installed: what needs no provider


@TERRAFORM
def test_it_is_formatted() -> None:
    ended = subprocess.run(
        ["terraform", f"-chdir={FOLDER}", "fmt", "-check"], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "")


@TERRAFORM
def test_bad_values_are_refused_in_one_line_each(tmp_path: Path) -> None:
    """The variables alone, whose conditions need no provider."""
    (tmp_path / "terraform").mkdir()
    shutil.copy(FOLDER / "variables.tf", tmp_path / "terraform")
    shutil.copy(PRICES, tmp_path / "prices.yaml")
    good = (FOLDER / "example.tfvars").read_text()

    def plan(values: str) -> list[str]:
        (tmp_path / "terraform" / "terraform.tfvars").write_text(values)
        ended = subprocess.run(
            ["terraform", f"-chdir={tmp_path / 'terraform'}", "plan", "-no-color", "-input=false", "-lock=false"],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"TF_CLI_CONFIG_FILE": os.devnull},
        )
        said = [name for name in re.findall(r"^[│ ]*(\w+): ", ended.stderr, flags=re.MULTILINE) if name in VARIABLES]
        assert (ended.returncode == 0) == (not said), ended.stderr
        return said

    assert plan(good) == []
    bad = {
        "project": '"12345"',
        "billing_account": '"mine"',
        "zones": '["europe-west1-b"]',
        "operators": '["allUsers"]',
        "domain": '"https://retain.example.com/"',
        "gpu_machine": '"a2-highgpu-1g"',
        "cpu_machine": '"n1-standard-8"',
        "idle_seconds": "5",
        "service_settings": '{ ASSIGNMENT_KEY = "x" }',
        "budget_usd": "0.5",
        "budget_email": '"nobody"',
    }
    kept = "\n".join(line for line in good.splitlines() if line.split(" ")[0] not in bad)
    said = plan(kept + "\n" + "".join(f"{name} = {value}\n" for name, value in bad.items()))
    assert sorted(set(said)) == sorted(bad)
    assert plan(good + '\nregion = "europe-west4"\nzones = ["europe-west4-a"]\n') == ["region"]
