# Who may do what. Each grant names the call that needs it; tests/infra/test_terraform.py wants one for each. No account
# has a key: machines get tokens from the metadata server, people log in as themselves.

locals {
  accounts = {
    host   = "Prefect's server, and the parents of runs"
    worker = "Machines of the work pools"
    serve  = "The service, POST /retain"
  }

  bucket_grants = {
    host-objects   = { account = "host", role = "roles/storage.objectUser", call = "storage.objects.create, get, list, delete: the store (engine/bucket.py)" }
    worker-objects = { account = "worker", role = "roles/storage.objectUser", call = "storage.objects.create, get, list, delete: the store (engine/bucket.py)" }
    serve-objects  = { account = "serve", role = "roles/storage.objectUser", call = "storage.objects.get, list: releases; create: rollout and lease (deploy/controller.py)" }
    host-look      = { account = "host", role = google_project_iam_custom_role.look.id, call = "storage.buckets.get: a run's first look at versioning (engine/bucket.py)" }
  }

  registry_grants = {
    host   = { account = "host", role = "roles/artifactregistry.reader", call = "docker pull: orchestrator, and tabular for parents (infra/startup/host.sh)" }
    worker = { account = "worker", role = "roles/artifactregistry.reader", call = "docker pull: orchestrator, and the images of stages (infra/startup/worker.sh)" }
    serve  = { account = "serve", role = "roles/artifactregistry.reader", call = "docker pull: serve (infra/startup/serve.sh)" }
  }

  secret_grants = {
    host-prefect   = { account = "host", secret = "prefect-auth", role = "roles/secretmanager.secretAccessor", call = "secrets.versions.access (infra/startup/host.sh)" }
    worker-prefect = { account = "worker", secret = "prefect-auth", role = "roles/secretmanager.secretAccessor", call = "secrets.versions.access (infra/startup/worker.sh)" }
    serve-keys     = { account = "serve", secret = "api-keys", role = "roles/secretmanager.secretAccessor", call = "secrets.versions.access (infra/startup/serve.sh)" }
    serve-page     = { account = "serve", secret = "page-url", role = "roles/secretmanager.secretAccessor", call = "secrets.versions.access (infra/startup/serve.sh)" }
  }

  project_grants = {
    host-grow    = { account = "host", role = google_project_iam_custom_role.host_grow.id, call = "regionInstanceGroupManagers.resize, and before it regions.get, acceleratorTypes.list, projects.get: a run that wants machines (flows/capacity.py)" }
    worker-leave = { account = "worker", role = google_project_iam_custom_role.leave.id, call = "regionInstanceGroupManagers.deleteInstances: an idle machine (infra/startup/worker.sh)" }
  }

  # Of people. `on`: the accounts of the machines that they log in to.
  operator_grants = {
    tunnel = { role = "roles/iap.tunnelResourceAccessor", call = "gcloud compute start-iap-tunnel, gcloud compute ssh --tunnel-through-iap" }
    login  = { role = "roles/compute.osAdminLogin", call = "gcloud compute ssh: docker exec of the controller wants root (docs/OPERATOR_RUNBOOK.md)" }
    look   = { role = "roles/compute.viewer", call = "compute.instances.get of gcloud compute ssh; compute.projects.get" }
    grow   = { role = google_project_iam_custom_role.grow.id, call = "regionInstanceGroupManagers.resize: before a launch (docs/GOOGLE_CLOUD.md)" }
  }
}

resource "google_service_account" "account" {
  for_each = local.accounts

  account_id   = "retain-${each.key}"
  display_name = each.value

  depends_on = [google_project_service.used]
}

resource "google_project_iam_custom_role" "look" {
  role_id     = "retainBucketLook"
  title       = "Look at the settings of a bucket"
  permissions = ["storage.buckets.get"]
}

# Google has no narrower permission for it: with this one a machine could also resize a group. What a stage's container
# may do is what its machine may do, so the images that run are pinned by digest, and a budget tells.
resource "google_project_iam_custom_role" "leave" {
  role_id     = "retainWorkerLeave"
  title       = "Delete machines of a group"
  permissions = ["compute.instanceGroupManagers.update"]
}

resource "google_project_iam_custom_role" "host_grow" {
  role_id = "retainHostGrow"
  title   = "Ask for machines of a group"
  permissions = [
    "compute.acceleratorTypes.list",
    "compute.instanceGroupManagers.get",
    "compute.instanceGroupManagers.update",
    "compute.projects.get",
    "compute.regions.get",
  ]
}

resource "google_project_iam_custom_role" "grow" {
  role_id     = "retainOperatorGrow"
  title       = "Resize groups of machines"
  permissions = ["compute.instanceGroupManagers.get", "compute.instanceGroupManagers.update"]
}

resource "google_storage_bucket_iam_member" "grant" {
  for_each = local.bucket_grants

  bucket = google_storage_bucket.retain.name
  role   = each.value.role
  member = google_service_account.account[each.value.account].member
}

resource "google_artifact_registry_repository_iam_member" "grant" {
  for_each = local.registry_grants

  location   = google_artifact_registry_repository.images.location
  repository = google_artifact_registry_repository.images.name
  role       = each.value.role
  member     = google_service_account.account[each.value.account].member
}

resource "google_secret_manager_secret_iam_member" "grant" {
  for_each = local.secret_grants

  secret_id = google_secret_manager_secret.secret[each.value.secret].id
  role      = each.value.role
  member    = google_service_account.account[each.value.account].member
}

resource "google_project_iam_member" "machine" {
  for_each = local.project_grants

  project = var.project
  role    = each.value.role
  member  = google_service_account.account[each.value.account].member
}

resource "google_project_iam_member" "operator" {
  for_each = { for pair in setproduct(keys(local.operator_grants), var.operators) : "${pair[0]} ${pair[1]}" => pair }

  project = var.project
  role    = local.operator_grants[each.value[0]].role
  member  = each.value[1]
}

# OS Login lets people into a machine that acts as an account only if they may act as it: gcloud compute ssh.
resource "google_service_account_iam_member" "operator" {
  for_each = { for pair in setproduct(keys(local.accounts), var.operators) : "${pair[0]} ${pair[1]}" => pair }

  service_account_id = google_service_account.account[each.value[0]].name
  role               = "roles/iam.serviceAccountUser"
  member             = each.value[1]
}
