locals {
  labels = { retain = "true" }

  registry      = "${var.region}-docker.pkg.dev"
  bucket        = "${var.project}-retain"
  below         = "store" # in the bucket: what runs and the service write
  store         = "gs://${local.bucket}/${local.below}"
  server_url    = "http://retain-host.${var.zones[0]}.c.${var.project}.internal:4200/api"
  resident_zone = var.zones[0]

  # What make images PUSH= pushed: name -> reference, pinned by digest.
  images_path = "${path.module}/${var.pushed_images}"
  pushed      = jsondecode(fileexists(local.images_path) ? file(local.images_path) : "{}")
  images      = { for name, image in local.pushed : name => image.reference }
  has_host    = contains(keys(local.images), "orchestrator")
  has_service = contains(keys(local.images), "serve") && var.domain != null
}

# Its number, which budgets and peerings know it by.
data "google_project" "this" {
  depends_on = [google_project_service.used]
}

# Turning an interface off takes away what others in the project may use it for, so `terraform destroy` leaves them on.
resource "google_project_service" "used" {
  for_each = toset(concat([
    "artifactregistry.googleapis.com",
    "bigquery.googleapis.com",
    "billingbudgets.googleapis.com",
    "cloudresourcemanager.googleapis.com",
    "compute.googleapis.com",
    "iam.googleapis.com",
    "iap.googleapis.com",
    "logging.googleapis.com",
    "monitoring.googleapis.com",
    "oslogin.googleapis.com",
    "secretmanager.googleapis.com",
    "storage.googleapis.com",
  ], var.vertex ? ["aiplatform.googleapis.com", "servicenetworking.googleapis.com"] : []))

  service            = each.value
  disable_on_destroy = false
}
