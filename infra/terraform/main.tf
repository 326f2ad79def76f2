locals {
  labels = { retain = "true" }

  registry      = "${var.region}-docker.pkg.dev"
  bucket        = "${var.project}-retain"
  store         = "gs://${local.bucket}/store"
  server_url    = "http://retain-host.${var.zones[0]}.c.${var.project}.internal:4200/api"
  resident_zone = var.zones[0]

  # What make images PUSH= pushed: name -> reference, pinned by digest.
  images_path = "${path.module}/${var.pushed_images}"
  pushed      = jsondecode(fileexists(local.images_path) ? file(local.images_path) : "{}")
  images      = { for name, image in local.pushed : name => image.reference }
  has_host    = contains(keys(local.images), "orchestrator")
  has_service = contains(keys(local.images), "serve") && var.domain != null
}

# Turning an interface off takes away what others in the project may use it for, so `terraform destroy` leaves them on.
resource "google_project_service" "used" {
  for_each = toset([
    "artifactregistry.googleapis.com",
    "bigquery.googleapis.com",
    "billingbudgets.googleapis.com",
    "cloudresourcemanager.googleapis.com",
    "compute.googleapis.com",
    "iam.googleapis.com",
    "iap.googleapis.com",
    "monitoring.googleapis.com",
    "oslogin.googleapis.com",
    "secretmanager.googleapis.com",
    "storage.googleapis.com",
  ])

  service            = each.value
  disable_on_destroy = false
}
