# HTTPS by Google's load balancer rather than by Caddy on the machine: the machine needs no public address, and nobody has
# to renew a certificate. It costs 2.5 cents an hour.

locals {
  # Not by the domain's name: another domain changes the certificate in place, and the address stays.
  https = var.domain == null ? toset([]) : toset(["https"])
}

resource "google_compute_global_address" "service" {
  for_each = local.https # one that nobody uses costs money, too

  name = "retain"

  depends_on = [google_project_service.used]
}

resource "google_compute_network_endpoint_group" "service" {
  name                  = "retain-serve"
  network               = google_compute_network.retain.id
  subnetwork            = google_compute_subnetwork.retain.id
  zone                  = local.resident_zone
  network_endpoint_type = "GCE_VM_IP_PORT"
}

# The replicas of deploy/compose.yaml, at the ports of deploy/compose.cloud.yaml.
resource "google_compute_network_endpoint" "replica" {
  for_each = local.has_service ? toset(["8000", "8010"]) : toset([])

  network_endpoint_group = google_compute_network_endpoint_group.service.name
  zone                   = local.resident_zone
  instance               = google_compute_instance.resident["serve"].name
  ip_address             = google_compute_instance.resident["serve"].network_interface[0].network_ip
  port                   = each.value
}

resource "google_compute_health_check" "service" {
  name                = "retain-serve"
  check_interval_sec  = 5
  timeout_sec         = 5
  healthy_threshold   = 1
  unhealthy_threshold = 2

  http_health_check {
    port_specification = "USE_SERVING_PORT"
    request_path       = "/healthz"
  }

  depends_on = [google_project_service.used]
}

resource "google_compute_backend_service" "service" {
  name                  = "retain-serve"
  protocol              = "HTTP"
  load_balancing_scheme = "EXTERNAL_MANAGED"
  health_checks         = [google_compute_health_check.service.id]
  timeout_sec           = 30

  backend {
    group                 = google_compute_network_endpoint_group.service.id
    balancing_mode        = "RATE"
    max_rate_per_endpoint = 1000
  }

  log_config {
    enable = false # requests name customers; the service keeps its own records
  }
}

resource "google_compute_url_map" "service" {
  name            = "retain"
  default_service = google_compute_backend_service.service.id
}

resource "google_compute_managed_ssl_certificate" "service" {
  for_each = local.https

  name = "retain-${substr(sha256(var.domain), 0, 8)}" # another domain is another certificate

  managed {
    domains = [var.domain]
  }

  lifecycle {
    create_before_destroy = true
  }

  depends_on = [google_project_service.used]
}

resource "google_compute_ssl_policy" "service" {
  name            = "retain"
  profile         = "MODERN"
  min_tls_version = "TLS_1_2"

  depends_on = [google_project_service.used]
}

resource "google_compute_target_https_proxy" "service" {
  for_each = local.https

  name             = "retain"
  url_map          = google_compute_url_map.service.id
  ssl_certificates = [google_compute_managed_ssl_certificate.service[each.key].id]
  ssl_policy       = google_compute_ssl_policy.service.id
}

# Port 443 and no other: nobody is sent on from port 80, where a key would have gone in the clear.
resource "google_compute_global_forwarding_rule" "https" {
  for_each = local.https

  name                  = "retain-https"
  target                = google_compute_target_https_proxy.service[each.key].id
  ip_address            = google_compute_global_address.service[each.key].address
  port_range            = "443"
  load_balancing_scheme = "EXTERNAL_MANAGED"
}
