# Versions are exact. There is no .terraform.lock.hcl yet: it holds hashes of the provider, which only `terraform init`
# with a network can learn. Commit the one that the first init writes.

terraform {
  required_version = ">= 1.9.0, < 2.0.0" # 1.9: conditions of variables may look into the price list

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "6.50.0"
    }
  }
}

provider "google" {
  project = var.project
  region  = var.region

  # The budget's interface wants to know whose quota it uses.
  user_project_override = true
  billing_project       = var.project

  default_labels = local.labels
}
