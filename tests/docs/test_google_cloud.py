"""docs/GOOGLE_CLOUD.md names what infra/ makes, at the prices of infra/prices.yaml."""

from __future__ import annotations

import re
import subprocess

from engine.prices import load_prices
from tests.docs.documents import first_cell, read, row, section
from tests.infra.hcl import blocks, local_values, resources

TEXT = read("docs/GOOGLE_CLOUD.md")
COMMANDS = "\n".join(re.findall(r"^```bash\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL))
LOCALS, VARIABLES = local_values(), blocks("variable")
PRICES = load_prices()
COSTS = section(TEXT, "What it costs")


def test_it_stays_a_page() -> None:
    assert len(TEXT.splitlines()) <= 150


def test_its_commands_are_bash() -> None:
    checked = subprocess.run(["bash", "-n"], input=COMMANDS, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_outputs_secrets_and_groups_are_terraforms() -> None:
    assert set(re.findall(r"\$\(out (\w+)\)", COMMANDS)) <= blocks("output").keys()
    secrets = {f"retain-{name}" for name in LOCALS["secrets"] if not name.startswith("__")}
    assert set(re.findall(r"gcloud secrets versions add (\S+)", COMMANDS)) == secrets
    assert set(re.findall(r"--secret=([\w-]+)", COMMANDS)) <= secrets
    pools = [name for name in LOCALS["pools"] if not name.startswith("__")]
    assert set(re.findall(r"managed resize retain-([\w-]+)", COMMANDS)) <= set(pools)
    assert f"for pool in {' '.join(pools)}; do" in COMMANDS
    assert VARIABLES["region"]["default"] in COMMANDS
    assert f"--zone={VARIABLES['zones']['default'][0]}" in TEXT


def rates() -> dict[str, float]:
    """Those that the document states itself."""
    (disk,) = re.findall(r"([\d.]+) for a GB of disk and month of 730 hours", " ".join(COSTS.split()))
    (balancer,) = re.findall(r"([\d.]+) for up to five rules", " ".join(COSTS.split()))
    (nat,) = re.findall(r"([\d.]+) for each machine that uses NAT", " ".join(COSTS.split()))
    return {"disk": float(disk) / 730, "balancer": float(balancer), "nat": float(nat)}


def price(variable: str, *, preemptible: bool) -> float:
    gpu = "nvidia-l4" if variable == "gpu_machine" else None
    region, machine = (VARIABLES[name]["default"] for name in ("region", variable))
    return PRICES.usd_per_hour(machine, gpu, region, preemptible=preemptible)


def resident_gb() -> float:
    (boot,) = resources()["google_compute_instance"]["resident"]["boot_disk"]
    return float(boot["initialize_params"][0]["size"] + resources()["google_compute_disk"]["data"]["size"])


def hourly() -> dict[str, tuple[float, float]]:
    """What a row begins with -> GB of disk, dollars an hour."""
    known = rates()
    found = {
        f"`retain-{name}`": (resident_gb(), price("resident_machine", preemptible=False)) for name in ("host", "serve")
    }
    for name, pool in LOCALS["pools"].items():
        if not name.startswith("__"):
            variable = pool["machine_type"].removeprefix("${var.").removesuffix("}")
            machine = price(variable, preemptible=pool["scheduling"] == "${local.spot}")
            found[f"a machine of `{name}`"] = pool["disk_gb"], machine
    return {name: (gb, usd + gb * known["disk"] + known["nat"]) for name, (gb, usd) in found.items()}


def test_every_row_is_worked_out_from_the_price_list_and_terraform() -> None:
    worked_out = hourly()
    assert len(worked_out) == 5
    for name, (gb, usd) in worked_out.items():
        assert f"{gb:g} GB" in first_cell(COSTS, name)
        assert float(row(COSTS, name)) == round(usd, 4), name
    assert float(row(COSTS, "the load balancer")) == rates()["balancer"]


def test_what_is_always_on_adds_up() -> None:
    usd = rates()["balancer"] + sum(usd for name, (_, usd) in hourly().items() if name.startswith("`"))
    stated, month = (float(number) for number in re.findall(r"[\d.]*\d", row(COSTS, "always on")))
    assert stated == round(usd, 4)
    assert month == round(usd * 730)
    assert f"{2 * resident_gb() * rates()['disk']:.4f} are the disks" in COSTS


def test_nobody_grows_groups_by_hand() -> None:
    """A run does (flows/capacity.py); people only end them."""
    assert set(re.findall(r"managed resize .*--size=(\d+)", COMMANDS)) == {"0"}


def test_what_the_document_promises_of_logs_is_said_and_kept() -> None:
    (prefix,) = set(re.findall(r'textPayload:"(.*?)"', TEXT))
    assert f"printf '{prefix}%s" in read("infra/startup/common.sh")
    assert LOCALS["every_machine"]["serial-port-logging-enable"] == "TRUE"


def test_copies_of_disks_are_found_by_their_label() -> None:
    assert LOCALS["labels"] == {"retain": "true"}
    assert "--filter=labels.retain=true" in COMMANDS
