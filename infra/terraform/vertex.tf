# What jobs of Vertex AI need besides their account (identity.tf), if var.vertex says so. They work in a network of
# Google's own, which is joined to ours; a name such as retain-host isn't known there, so they reach Prefect's server by its
# address.

locals {
  vertex = toset(var.vertex ? ["vertex"] : [])
}

# Of this size for at most seven jobs at once.
resource "google_compute_global_address" "vertex" {
  for_each = local.vertex

  name          = "retain-vertex"
  purpose       = "VPC_PEERING"
  address_type  = "INTERNAL"
  network       = google_compute_network.retain.id
  address       = "10.20.0.0"
  prefix_length = 19
}

resource "google_service_networking_connection" "vertex" {
  for_each = local.vertex

  network                 = google_compute_network.retain.id
  service                 = "servicenetworking.googleapis.com"
  reserved_peering_ranges = [google_compute_global_address.vertex[each.key].name]
}

resource "google_compute_firewall" "vertex" {
  for_each = local.vertex

  name                    = "retain-vertex"
  network                 = google_compute_network.retain.id
  direction               = "INGRESS"
  source_ranges           = ["10.20.0.0/19"]
  target_service_accounts = [google_service_account.account["host"].email]

  allow {
    protocol = "tcp"
    ports    = ["4200"]
  }
}
