output "store" {
  description = "RETAIN_STORE of every run."
  value       = local.store
}

output "data" {
  description = "RETAIN_DATA_DIR of every run, once the source files are there."
  value       = "gs://${local.bucket}/data"
}

output "registry" {
  description = "For make images PUSH=."
  value       = "${local.registry}/${var.project}/${google_artifact_registry_repository.images.repository_id}"
}

output "tunnel" {
  description = "Makes Prefect's server reachable at http://127.0.0.1:4201/api of your machine while it runs."
  value       = "gcloud compute start-iap-tunnel retain-host 4200 --local-host-port=127.0.0.1:4201 --zone=${local.resident_zone} --project=${var.project}"
}

output "address" {
  description = "The address that the domain's A record has to have, for the certificate to be made."
  value       = one([for each in google_compute_global_address.service : each.address])
}

output "service" {
  description = "Where the service answers."
  value       = var.domain == null ? null : "https://${var.domain}/retain"
}

output "vertex_network" {
  description = "Network of the jobs of gpu-vertex, from which they reach Prefect's server."
  value       = one([for each in google_service_networking_connection.vertex : "projects/${data.google_project.this.number}/global/networks/${google_compute_network.retain.name}"])
}
