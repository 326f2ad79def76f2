# No machine has a public address. They reach images and packages through NAT, Google's services by the network's own
# way to them; people come through IAP, customers through the load balancer.

resource "google_compute_network" "retain" {
  name                    = "retain"
  auto_create_subnetworks = false

  depends_on = [google_project_service.used]
}

resource "google_compute_subnetwork" "retain" {
  name                     = "retain"
  network                  = google_compute_network.retain.id
  region                   = var.region
  ip_cidr_range            = "10.10.0.0/24"
  private_ip_google_access = true
}

resource "google_compute_router" "retain" {
  name    = "retain"
  network = google_compute_network.retain.id
  region  = var.region
}

resource "google_compute_router_nat" "retain" {
  name                               = "retain"
  router                             = google_compute_router.retain.name
  region                             = var.region
  nat_ip_allocate_option             = "AUTO_ONLY"
  source_subnetwork_ip_ranges_to_nat = "ALL_SUBNETWORKS_ALL_IP_RANGES"
}

# From IAP's range alone, where Google asks who it is: SSH to all machines, Prefect's API and UI at its own.
resource "google_compute_firewall" "iap" {
  name          = "retain-iap"
  network       = google_compute_network.retain.id
  direction     = "INGRESS"
  source_ranges = ["35.235.240.0/20"]

  allow {
    protocol = "tcp"
    ports    = ["22"]
  }
}

resource "google_compute_firewall" "prefect" {
  name                    = "retain-prefect"
  network                 = google_compute_network.retain.id
  direction               = "INGRESS"
  source_ranges           = ["35.235.240.0/20"]
  target_service_accounts = [google_service_account.account["host"].email]

  allow {
    protocol = "tcp"
    ports    = ["4200"]
  }
}

resource "google_compute_firewall" "workers" {
  name                    = "retain-workers"
  network                 = google_compute_network.retain.id
  direction               = "INGRESS"
  source_service_accounts = [google_service_account.account["worker"].email]
  target_service_accounts = [google_service_account.account["host"].email]

  allow {
    protocol = "tcp"
    ports    = ["4200"]
  }
}

# The load balancer and its health checks come from these ranges.
resource "google_compute_firewall" "balancer" {
  name                    = "retain-balancer"
  network                 = google_compute_network.retain.id
  direction               = "INGRESS"
  source_ranges           = ["130.211.0.0/22", "35.191.0.0/16"]
  target_service_accounts = [google_service_account.account["serve"].email]

  allow {
    protocol = "tcp"
    ports    = ["8000", "8010"]
  }
}
