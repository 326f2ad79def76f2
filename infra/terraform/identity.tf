# Who may do what. Each grant names the call that needs it; tests/infra/test_terraform.py wants one for each. No account
# has a key: machines get tokens from the metadata server, people log in as themselves. What begins with `vertex` is made
# if var.vertex says so.

locals {
  accounts = {
    host   = "Prefect's server, and the parents of runs"
    worker = "Machines of the work pools"
    serve  = "The service, POST /retain"
    vertex = "Jobs of the pool gpu-vertex"
  }

  # How the names of objects begin, below store/. No stage may write these: a stage's code, or whoever got into it, could
  # make a release answer customers, approve a text in a person's name, or spend what nobody granted.
  places = {
    rollout   = ["rollout/"]
    approvals = ["approvals/", "approvals-shown.json"]
    ledger    = ["ledger/"]
    retrains  = ["retrains/"]
  }

  objects = "resource.name.startsWith(\"projects/_/buckets/${local.bucket}/objects/${local.below}/"
  of_place = {
    for place, begins in local.places :
    place => join(" || ", [for begin in begins : "${local.objects}${begin}\")"])
  }
  # Google allows 12 of &&, || and ! in one.
  conditions = merge(local.of_place, {
    stages = join(" && ", concat(["${local.objects}\")"], [for condition in values(local.of_place) : "!(${condition})"]))
  })

  # `where`: the objects that the role is about, by the name of a condition; all of them where it is null. The host looks
  # at its rights on the whole bucket before a run (BucketStore.check), so it has them there.
  bucket_grants = {
    host-objects = { account = "host", where = null, role = "roles/storage.objectUser", call = "storage.objects.create, get, list, delete: the store (engine/bucket.py)" }
    host-look    = { account = "host", where = null, role = google_project_iam_custom_role.look.id, call = "storage.buckets.get: a run's first look at versioning (engine/bucket.py)" }
    worker-read  = { account = "worker", where = null, role = "roles/storage.objectViewer", call = "storage.objects.get, list: inputs of stages (engine/bucket.py)" }
    worker-write = { account = "worker", where = "stages", role = "roles/storage.objectUser", call = "storage.objects.create, delete: artifacts, checkpoints, claims (engine/bucket.py)" }
    serve-read   = { account = "serve", where = null, role = "roles/storage.objectViewer", call = "storage.objects.get, list: releases (engine/bucket.py)" }
    serve-write  = { account = "serve", where = "rollout", role = "roles/storage.objectUser", call = "storage.objects.create, delete: rollout, lease and pages (deploy/run.py)" }
    vertex-read  = { account = "vertex", where = null, role = "roles/storage.objectViewer", call = "storage.objects.get, list: inputs of stages (engine/bucket.py)" }
    vertex-write = { account = "vertex", where = "stages", role = "roles/storage.objectUser", call = "storage.objects.create, delete: artifacts, checkpoints, claims (engine/bucket.py)" }
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
    vertex-run   = { account = "host", role = google_project_iam_custom_role.vertex.id, call = "aiplatform.customJobs.create, get, cancel: prefect-gcp's worker (flows/google_cloud.py)" }
    worker-leave = { account = "worker", role = google_project_iam_custom_role.leave.id, call = "regionInstanceGroupManagers.deleteInstances: an idle machine (infra/startup/worker.sh)" }
  }

  act_grants = {
    vertex-act = { account = "host", as = "vertex", role = "roles/iam.serviceAccountUser", call = "aiplatform.customJobs.create as that account: service_account_name (prefect.yaml)" }
  }

  # Of people. Whoever applies this owns the project, and needs none.
  operator_bucket_grants = {
    read    = { where = null, role = "roles/storage.objectViewer", call = "storage.objects.get, list: make messages, make costs (engine/bucket.py)" }
    approve = { where = "approvals", role = "roles/storage.objectUser", call = "storage.objects.create, delete: make messages (engine/approvals.py)" }
    budget  = { where = "ledger", role = "roles/storage.objectUser", call = "storage.objects.create, delete: make budget USD= (engine/ledger.py)" }
  }

  operator_secret_grants = {
    prefect = { secret = "prefect-auth", role = "roles/secretmanager.secretAccessor", call = "gcloud secrets versions access (docs/GOOGLE_CLOUD.md)" }
    keys    = { secret = "api-keys", role = "roles/secretmanager.secretAccessor", call = "gcloud secrets versions access (docs/GOOGLE_CLOUD.md)" }
    page    = { secret = "page-url", role = "roles/secretmanager.secretAccessor", call = "GcpSecret.read_secret of make deploy (flows/google_cloud.py)" }
  }

  operator_grants = {
    tunnel = { role = "roles/iap.tunnelResourceAccessor", call = "gcloud compute start-iap-tunnel, gcloud compute ssh --tunnel-through-iap (docs/GOOGLE_CLOUD.md)" }
    login  = { role = "roles/compute.osAdminLogin", call = "gcloud compute ssh: docker exec of the controller wants root (docs/OPERATOR_RUNBOOK.md)" }
    look   = { role = "roles/compute.viewer", call = "compute.instances.get, compute.projects.get of gcloud compute ssh (docs/GOOGLE_CLOUD.md)" }
    logs   = { role = "roles/logging.viewer", call = "gcloud logging read: what a machine said that is gone (docs/GOOGLE_CLOUD.md)" }
    use    = { role = "roles/serviceusage.serviceUsageConsumer", call = "serviceusage.services.use: who is charged for the calls of make deploy (flows/google_cloud.py)" }
    grow   = { role = google_project_iam_custom_role.grow.id, call = "regionInstanceGroupManagers.resize: to end all machines of a pool (docs/GOOGLE_CLOUD.md)" }
  }
}

resource "google_service_account" "account" {
  for_each = { for name, what in local.accounts : name => what if var.vertex || !startswith(name, "vertex") }

  account_id   = "retain-${each.key}"
  display_name = each.value

  depends_on = [google_project_service.used]
}

resource "google_project_iam_custom_role" "look" {
  role_id     = "retainBucketLook"
  title       = "Look at the settings of a bucket"
  permissions = ["storage.buckets.get"]

  depends_on = [google_project_service.used]
}

# Google has no narrower permission for it: with this one a machine could also resize a group. What a stage's container
# may do is what its machine may do, so the images that run are pinned by digest, and a budget tells.
resource "google_project_iam_custom_role" "leave" {
  role_id     = "retainWorkerLeave"
  title       = "Delete machines of a group"
  permissions = ["compute.instanceGroupManagers.update"]

  depends_on = [google_project_service.used]
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

  depends_on = [google_project_service.used]
}

resource "google_project_iam_custom_role" "grow" {
  role_id     = "retainOperatorGrow"
  title       = "Resize groups of machines"
  permissions = ["compute.instanceGroupManagers.get", "compute.instanceGroupManagers.update"]

  depends_on = [google_project_service.used]
}

# roles/aiplatform.user may do much more, with data sets and models.
resource "google_project_iam_custom_role" "vertex" {
  role_id = "retainVertexRun"
  title   = "Start and cancel jobs of Vertex AI"
  permissions = [
    "aiplatform.customJobs.cancel",
    "aiplatform.customJobs.create",
    "aiplatform.customJobs.get",
  ]

  depends_on = [google_project_service.used]
}

resource "google_storage_bucket_iam_member" "grant" {
  for_each = { for name, grant in local.bucket_grants : name => grant if var.vertex || !startswith(name, "vertex") }

  bucket = google_storage_bucket.retain.name
  role   = each.value.role
  member = google_service_account.account[each.value.account].member

  dynamic "condition" {
    for_each = each.value.where == null ? [] : [each.value.where]

    content {
      title      = "objects of ${condition.value}"
      expression = local.conditions[condition.value]
    }
  }
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
  for_each = { for name, grant in local.project_grants : name => grant if var.vertex || !startswith(name, "vertex") }

  project = var.project
  role    = each.value.role
  member  = google_service_account.account[each.value.account].member
}

resource "google_service_account_iam_member" "machine" {
  for_each = { for name, grant in local.act_grants : name => grant if var.vertex || !startswith(name, "vertex") }

  service_account_id = google_service_account.account[each.value.as].name
  role               = each.value.role
  member             = google_service_account.account[each.value.account].member
}

resource "google_storage_bucket_iam_member" "operator" {
  for_each = { for pair in setproduct(keys(local.operator_bucket_grants), var.operators) : "${pair[0]} ${pair[1]}" => pair }

  bucket = google_storage_bucket.retain.name
  role   = local.operator_bucket_grants[each.value[0]].role
  member = each.value[1]

  dynamic "condition" {
    for_each = [for where in [local.operator_bucket_grants[each.value[0]].where] : where if where != null]

    content {
      title      = "objects of ${condition.value}"
      expression = local.conditions[condition.value]
    }
  }
}

resource "google_secret_manager_secret_iam_member" "operator" {
  for_each = { for pair in setproduct(keys(local.operator_secret_grants), var.operators) : "${pair[0]} ${pair[1]}" => pair }

  secret_id = google_secret_manager_secret.secret[local.operator_secret_grants[each.value[0]].secret].id
  role      = local.operator_secret_grants[each.value[0]].role
  member    = each.value[1]
}

resource "google_project_iam_member" "operator" {
  for_each = { for pair in setproduct(keys(local.operator_grants), var.operators) : "${pair[0]} ${pair[1]}" => pair }

  project = var.project
  role    = local.operator_grants[each.value[0]].role
  member  = each.value[1]

  depends_on = [google_project_service.used]
}

# OS Login lets people into a machine that acts as an account only if they may act as it: gcloud compute ssh.
resource "google_service_account_iam_member" "operator" {
  for_each = { for pair in setproduct(["host", "worker", "serve"], var.operators) : "${pair[0]} ${pair[1]}" => pair }

  service_account_id = google_service_account.account[each.value[0]].name
  role               = "roles/iam.serviceAccountUser"
  member             = each.value[1]
}
