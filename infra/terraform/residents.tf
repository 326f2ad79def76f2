# The two machines that are always on: Prefect's, and that of the service. What a database there holds lies on a disk that
# outlives the machine, and is copied every day.
#
# The disks are there before the machines and stay where they go: whoever applies this without build/images.json or
# without a domain takes machines away, and no database.

locals {
  machines = {
    host = {
      wanted = local.has_host
      image  = lookup(local.images, "orchestrator", "")
      script = "host.sh"
      folder = "${path.module}/.."
      settings = {
        retain-prefect-secret = google_secret_manager_secret.secret["prefect-auth"].secret_id
      }
    }
    serve = {
      wanted = local.has_service
      image  = lookup(local.images, "serve", "")
      script = "serve.sh"
      folder = "${path.module}/../../deploy"
      settings = {
        retain-settings    = join("\n", [for name, value in merge(var.service_settings, { RETAIN_EXPERIMENT = var.experiment }) : "${name}=${value}"])
        retain-keys-secret = google_secret_manager_secret.secret["api-keys"].secret_id
        retain-page-secret = google_secret_manager_secret.secret["page-url"].secret_id
      }
    }
  }
  residents = { for name, machine in local.machines : name => machine if machine.wanted }

  # Also of the pools' machines. What a machine says when it starts is in Cloud Logging, where it can be read when the
  # machine is gone.
  every_machine = {
    enable-oslogin             = "TRUE"
    block-project-ssh-keys     = "TRUE"
    serial-port-logging-enable = "TRUE"
  }
}

resource "google_compute_disk" "data" {
  for_each = toset(["host", "serve"])

  name = "retain-${each.key}-data"
  zone = local.resident_zone
  type = "pd-balanced"
  size = 30

  depends_on = [google_project_service.used]
}

resource "google_compute_resource_policy" "daily" {
  name   = "retain-daily"
  region = var.region

  snapshot_schedule_policy {
    schedule {
      daily_schedule {
        days_in_cycle = 1
        start_time    = "04:00"
      }
    }

    retention_policy {
      max_retention_days = 14
    }

    snapshot_properties {
      labels = local.labels # by which they are found when all is taken down
    }
  }

  depends_on = [google_project_service.used]
}

resource "google_compute_disk_resource_policy_attachment" "daily" {
  for_each = google_compute_disk.data

  name = google_compute_resource_policy.daily.name
  disk = each.value.name
  zone = each.value.zone
}

resource "google_compute_instance" "resident" {
  for_each = local.residents

  name         = "retain-${each.key}"
  machine_type = var.resident_machine
  zone         = local.resident_zone

  allow_stopping_for_update = true

  boot_disk {
    initialize_params {
      image = "projects/debian-cloud/global/images/family/debian-12"
      type  = "pd-balanced"
      size  = 20
    }
  }

  attached_disk {
    source      = google_compute_disk.data[each.key].id
    device_name = "retain-data"
  }

  network_interface {
    subnetwork = google_compute_subnetwork.retain.id
  }

  metadata = merge(local.every_machine, each.value.settings, {
    startup-script = join("\n", [
      file("${path.module}/../startup/common.sh"),
      file("${path.module}/../startup/resident.sh"),
      file("${path.module}/../startup/${each.value.script}"),
    ])
    retain-registry      = local.registry
    retain-image         = each.value.image
    retain-store         = local.store
    retain-compose       = file("${each.value.folder}/compose.yaml")
    retain-compose-cloud = file("${each.value.folder}/compose.cloud.yaml")
  })

  service_account {
    email  = google_service_account.account[each.key].email
    scopes = ["cloud-platform"] # what it may do is said by roles
  }

  shielded_instance_config {
    enable_secure_boot          = true
    enable_vtpm                 = true
    enable_integrity_monitoring = true
  }

  depends_on = [google_compute_router_nat.retain, google_secret_manager_secret_iam_member.grant, google_artifact_registry_repository_iam_member.grant]
}
