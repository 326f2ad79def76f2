# Copy to terraform.tfvars, which git ignores. No secret belongs here.
project         = "retain-example"
billing_account = "012345-6789AB-CDEF01"
operators       = ["user:somebody@example.com"]
domain          = "retain.example.com"
budget_email    = "somebody@example.com"
