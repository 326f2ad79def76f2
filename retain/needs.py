"""What the product asks of a table of customers, beyond a description that is right in itself.

An offer takes a share off the monthly charge, and a simulated year makes customers age by their tenure. So the stage
`customers` refuses a table that tells neither, before anything is trained, and a release is refused that can't price.
"""

from __future__ import annotations

from retain.dataset import Column, DatasetSpec, Role, column, is_nullable

CHARGE: Role = "monthly_charge"
# The columns that grow in a simulated year: no policy may do without them, so they are features that it sees.
AGEING: tuple[Role, ...] = ("tenure", "total_charge")


def price_faults(spec: DatasetSpec) -> list[str]:
    """Why an offer has no price for some customer or none at all, each with the line to write."""
    if CHARGE not in spec.roles:
        return [
            "no column has the role monthly_charge, so no offer has a price: write `roles: {monthly_charge: COLUMN}`. "
            "If all pay the same, a column with one number will do"
        ]
    charge = column(spec, spec.roles[CHARGE])
    faults = []
    if charge.kind != "number":
        faults.append(f"the kind is {charge.kind}: write `kind: number`, or name another column")
    elif charge.minimum is None or charge.minimum < 0:
        faults.append("a discount on less than nothing has no price: write `minimum: 0`")
    if is_nullable(charge):
        faults.append("every customer has one: take `missing` and `blank_value` out")
    if charge.leak:
        faults.append("no request has a leak: take `leak` out")
    wanted = f"the monthly charge {charge.name} wants a number from 0 that is never missing"
    return [f"{wanted}; {fault}" for fault in faults]


def ageing_faults(spec: DatasetSpec) -> list[str]:
    """Why no year can be simulated with the table, each with the line to write."""
    faults = []
    if "tenure" not in spec.roles:
        faults.append(
            "no column has the role tenure, so no year can be simulated: write `roles: {tenure: COLUMN}`, with the "
            "column of the months as a customer"
        )
    for role in AGEING:
        if role in spec.roles:
            faults += [f"the column {spec.roles[role]} of role {role} {fault}" for fault in _unseen(spec, role)]
    return faults


def _unseen(spec: DatasetSpec, role: Role) -> list[str]:
    """Why a policy would not see the column of a role as a number."""
    named: Column = column(spec, spec.roles[role])
    faults = []
    if named.kind != "number":
        faults.append(f"is of kind {named.kind}: write `kind: number`, or take {role} out of `roles`")
    if named.protected:
        faults.append("is hidden from the policy, which a simulated year ages by it: take `protected` and `bands` out")
    if named.leak:
        faults.append(f"is a leak, which no request has: take `leak` out, or {role} out of `roles`")
    return faults
