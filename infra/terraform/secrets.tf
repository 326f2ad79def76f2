# Places for secrets, without values: those would stand in Terraform's state. People add them (docs/GOOGLE_CLOUD.md).
# Passwords that only one machine has to know, such as its database's, are made there and leave it never.

locals {
  secrets = {
    prefect-auth = "name:password of Prefect's server, which workers, parents and people give"
    api-keys     = "name:secret,name:secret of those who may call the service (RETAIN_API_KEYS)"
    page-url     = "The webhook that pages somebody (RETAIN_PAGE_URL), or the word none"
  }
}

resource "google_secret_manager_secret" "secret" {
  for_each = local.secrets

  secret_id   = "retain-${each.key}"
  annotations = { what = each.value }

  replication {
    user_managed {
      replicas {
        location = var.region
      }
    }
  }

  depends_on = [google_project_service.used]
}
