"""docs/GOOGLE_CLOUD.md names what infra/ makes, at the prices of infra/prices.yaml."""

from __future__ import annotations

import re
import subprocess

import pytest

from engine.prices import load_prices
from tests.docs.documents import read, row, section
from tests.infra.hcl import blocks, local_values

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
    assert f"--zone={VARIABLES['zones']['default'][0]}" in COMMANDS


@pytest.mark.parametrize(
    ("begins", "variable", "preemptible"),
    [
        ("`retain-host`", "resident_machine", False),
        ("`retain-serve`", "resident_machine", False),
        ("a machine of `cpu-spot`", "cpu_machine", True),
        ("a machine of `gpu-spot`", "gpu_machine", True),
        ("a machine of `gpu-on-demand`", "gpu_machine", False),
    ],
)
def test_machines_cost_what_the_price_list_says(begins: str, variable: str, preemptible: bool) -> None:
    gpu = "nvidia-l4" if variable == "gpu_machine" else None
    region, machine = (VARIABLES[name]["default"] for name in ("region", variable))
    assert float(row(COSTS, begins)) == PRICES.usd_per_hour(machine, gpu, region, preemptible=preemptible)


def test_what_is_always_on_adds_up() -> None:
    names = ("`retain-host`", "`retain-serve`", "load balancer", "disks of both")
    hour = sum(float(row(COSTS, name)) for name in names) + 2 * float(row(COSTS, "NAT"))
    stated, month = (float(number) for number in re.findall(r"[\d.]*\d", row(COSTS, "always on")))
    assert stated == pytest.approx(hour, abs=0.005)
    assert month == pytest.approx(hour * 730, abs=1)
