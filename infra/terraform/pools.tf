# Groups of machines, one for each work pool of prefect.yaml that runs on Compute Engine. Their size is 0 until a run grows
# them for its stages; a machine that has had nothing to do deletes itself, and the group shrinks with it.

locals {
  spot      = { provisioning_model = "SPOT", preemptible = true, automatic_restart = false, instance_termination_action = "DELETE" }
  on_demand = { provisioning_model = "STANDARD", preemptible = false, automatic_restart = true, instance_termination_action = null }

  # Begins within seconds, and has Docker. A milestone, so that nobody gets another Docker unasked; Google mends this one
  # until 2028.
  cos = "projects/cos-cloud/global/images/family/cos-129-lts"

  pools = {
    cpu-spot      = { machine_type = var.cpu_machine, image = local.cos, gpu = false, disk_gb = 50, scheduling = local.spot }
    gpu-spot      = { machine_type = var.gpu_machine, image = var.gpu_image, gpu = true, disk_gb = 100, scheduling = local.spot }
    gpu-on-demand = { machine_type = var.gpu_machine, image = var.gpu_image, gpu = true, disk_gb = 100, scheduling = local.on_demand }
  }
}

resource "google_compute_instance_template" "pool" {
  for_each = { for name, pool in local.pools : name => pool if local.has_host }

  name_prefix  = "retain-${each.key}-"
  machine_type = each.value.machine_type
  labels       = { retain-pool = each.key } # by which the billing export is compared with the ledger

  scheduling {
    provisioning_model          = each.value.scheduling.provisioning_model
    preemptible                 = each.value.scheduling.preemptible
    automatic_restart           = each.value.scheduling.automatic_restart
    instance_termination_action = each.value.scheduling.instance_termination_action
    on_host_maintenance         = "TERMINATE" # a machine with a GPU can't be moved, a spot machine isn't
  }

  disk {
    source_image = each.value.image
    disk_type    = "pd-balanced"
    disk_size_gb = each.value.disk_gb
    auto_delete  = true
    boot         = true
    labels       = { retain-pool = each.key }
  }

  network_interface {
    subnetwork = google_compute_subnetwork.retain.id
  }

  metadata = merge(local.every_machine, {
    install-nvidia-driver = "True" # of images that come without; the others don't read it
    startup-script        = join("\n", [file("${path.module}/../startup/common.sh"), file("${path.module}/../startup/worker.sh")])
    retain-pool           = each.key
    retain-gpu            = tostring(each.value.gpu)
    retain-server         = local.server_url
    retain-registry       = local.registry
    retain-image          = local.images["orchestrator"]
    retain-store          = local.store
    retain-prefect-secret = google_secret_manager_secret.secret["prefect-auth"].secret_id
    retain-idle-seconds   = tostring(var.idle_seconds)
  })

  service_account {
    email  = google_service_account.account["worker"].email
    scopes = ["cloud-platform"] # what it may do is said by roles
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "google_compute_region_instance_group_manager" "pool" {
  for_each = { for name, pool in local.pools : name => pool if local.has_host }

  name                             = "retain-${each.key}"
  base_instance_name               = "retain-${each.key}"
  region                           = var.region
  distribution_policy_zones        = var.zones
  distribution_policy_target_shape = "ANY" # wherever there are machines left
  target_size                      = 0
  wait_for_instances               = false

  version {
    instance_template = google_compute_instance_template.pool[each.key].self_link_unique
  }

  # Machines at work are left alone; those made from now on are new.
  update_policy {
    type                         = "OPPORTUNISTIC"
    minimal_action               = "REPLACE"
    instance_redistribution_type = "NONE"
    max_surge_fixed              = 0
    max_unavailable_fixed        = length(var.zones)
  }

  lifecycle {
    ignore_changes = [target_size] # a run grows it (flows/capacity.py)
  }

  # Without one of these a machine would delete itself at once.
  depends_on = [
    google_compute_router_nat.retain,
    google_secret_manager_secret_iam_member.grant,
    google_artifact_registry_repository_iam_member.grant,
    google_project_iam_member.machine,
  ]
}
