"""What the product asks of a table of customers, beyond a description that is right in itself.

An offer takes a share off the monthly charge, and a simulated year makes customers age by their tenure. So the stage
`customers` refuses a table that tells neither, before anything is trained, and a release is refused that can't price.
"""

from __future__ import annotations

from retain.dataset import DatasetSpec, Role, column, is_nullable

CHARGE: Role = "monthly_charge"
# The columns that grow in a simulated year: no policy may do without them, so they are features that it sees.
AGEING: tuple[Role, ...] = ("tenure", "total_charge")


def price_faults(spec: DatasetSpec) -> list[str]:
    """Why an offer has no price, for some customer or for all, each with what to write."""
    if CHARGE not in spec.roles:
        return [
            "no column has the role monthly_charge, so no offer has a price: write `roles: {monthly_charge: COLUMN}`. "
            "If all pay the same, a column that says so in every row will do"
        ]
    charge = column(spec, spec.roles[CHARGE])
    faults = []
    if charge.kind != "number":
        faults.append(f"it is a {charge.kind}: write `kind: number`, or name another column")
    elif charge.minimum is None or charge.minimum < 0:
        faults.append("a share of less than nothing has no price: write `minimum: 0`")
    if is_nullable(charge):
        faults.append("every customer has one: take `missing` and `blank_value` out, and write `blank: drop`")
    if charge.leak:
        faults.append("no request has a leak: take `leak` out")
    wanted = f"the monthly charge {charge.name} wants a number from 0 that is never missing"
    return [f"{wanted}; {fault}" for fault in faults]


def ageing_faults(spec: DatasetSpec) -> list[str]:
    """Why no year can be simulated with the table, each with what to write."""
    faults = []
    if "tenure" not in spec.roles:
        faults.append(
            "no column has the role tenure, so no year can be simulated: write `roles: {tenure: COLUMN}`, with the "
            "column that counts the months as a customer"
        )
    for role in AGEING:
        if role in spec.roles:
            faults += [f"column {spec.roles[role]!r} (role {role}) {fault}" for fault in _unseen(spec, role)]
    return faults


def _unseen(spec: DatasetSpec, role: Role) -> list[str]:
    """Why a policy would not see the column of a role as a number."""
    named = column(spec, spec.roles[role])
    faults = []
    if named.kind != "number":
        faults.append(f"is a {named.kind}, and grows by the month: write `kind: number`, or name another column")
    if named.protected:
        faults.append("is protected, so the policy would not see how customers age: take `protected` and `bands` out")
    if named.leak:
        faults.append("is a leak, which no request has: take `leak` out, or name another column")
    return faults
