# Everything that has to last: artifacts, ledger, claims and approvals below store/, source files below data/.
resource "google_storage_bucket" "retain" {
  name                        = local.bucket
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = false # `terraform destroy` stops here until somebody has emptied it

  versioning {
    enabled = true # engine/bucket.py refuses a bucket without
  }

  # What was replaced or deleted: claims and records are rewritten every 30 seconds, checkpoints are deleted.
  lifecycle_rule {
    condition {
      days_since_noncurrent_time = 14
      with_state                 = "ARCHIVED"
    }
    action {
      type = "Delete"
    }
  }

  # Uploads that were cut off.
  lifecycle_rule {
    condition {
      age = 7
    }
    action {
      type = "AbortIncompleteMultipartUpload"
    }
  }

  # Deleted twice over: there is one way back from a mistake, for 14 days.
  soft_delete_policy {
    retention_duration_seconds = 0
  }

  depends_on = [google_project_service.used]
}

resource "google_artifact_registry_repository" "images" {
  location      = var.region
  repository_id = "retain"
  format        = "DOCKER"
  description   = "Images of make images PUSH="

  # Deployments pin digests. An image goes when it is older than 90 days and ten newer ones of its kind were pushed; what
  # still names it then is refused when it starts, and wants `make images PUSH=` and `make deploy`.
  cleanup_policies {
    id     = "recent"
    action = "KEEP"

    most_recent_versions {
      keep_count = 10
    }
  }

  cleanup_policies {
    id     = "old"
    action = "DELETE"

    condition {
      older_than = "7776000s" # 90 days
    }
  }

  depends_on = [google_project_service.used]
}
