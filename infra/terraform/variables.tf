variable "project" {
  description = "The project's id, not its number. All that is made here belongs to it."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project))
    error_message = "project: wants the id of a project, of 6 to 30 small letters, digits and hyphens."
  }
}

variable "billing_account" {
  description = "The billing account that pays for the project: 012345-6789AB-CDEF01."
  type        = string

  validation {
    condition     = can(regex("^[0-9A-F]{6}-[0-9A-F]{6}-[0-9A-F]{6}$", var.billing_account))
    error_message = "billing_account: wants an id such as 012345-6789AB-CDEF01; `gcloud billing accounts list` shows it."
  }
}

variable "region" {
  description = "Where everything is. Prices differ between regions, so it has to be one that infra/prices.yaml lists."
  type        = string
  default     = "us-central1"

  validation {
    condition     = contains([for price in yamldecode(file("${path.module}/../prices.yaml")).prices : price.region], var.region)
    error_message = "region: infra/prices.yaml has prices of other regions. Put this one's there first."
  }
}

variable "zones" {
  description = "Zones of the region that have L4s, in which spot machines are looked for. The machines that are always on are in the first."
  type        = list(string)
  default     = ["us-central1-a", "us-central1-b", "us-central1-c"]

  validation {
    condition     = length(var.zones) > 0 && alltrue([for zone in var.zones : can(regex("^${var.region}-[a-z]$", zone))])
    error_message = "zones: wants at least one zone of the region; `gcloud compute accelerator-types list` shows those with nvidia-l4."
  }
}

variable "operators" {
  description = "Who may reach the machines through IAP, as user:somebody@example.com or group:team@example.com."
  type        = set(string)

  validation {
    condition     = length(var.operators) > 0 && alltrue([for each in var.operators : can(regex("^(user|group):[^@ ]+@[^@ ]+$", each))])
    error_message = "operators: wants user:somebody@example.com or group:team@example.com. Nobody else gets at the machines."
  }
}

variable "domain" {
  description = "The name that the service is called by, such as retain.example.com. Without one no machine of the service is made."
  type        = string
  default     = null

  validation {
    condition     = var.domain == null || can(regex("^([a-z0-9]([a-z0-9-]*[a-z0-9])?\\.)+[a-z]{2,}$", var.domain))
    error_message = "domain: wants a name in small letters, such as retain.example.com, without https:// or a path."
  }
}

variable "experiment" {
  description = "Whose current release the service answers from, or whose rollout's champion."
  type        = string
  default     = "exp_001_mvp"

  validation {
    condition     = can(regex("^[a-z0-9_]+$", var.experiment))
    error_message = "experiment: wants the name of one in ops/configs, such as exp_001_mvp."
  }
}

variable "service_settings" {
  description = "Settings of the service (docs/SETTINGS.md), such as { CANARY_PERCENT = \"2\" }. No secret: everybody who sees the machine sees them."
  type        = map(string)
  default     = {}

  validation {
    condition = alltrue([
      for name, value in var.service_settings : can(regex("^[^\n]+$", value)) && contains([
        "ACCEPT_MODEL_PATH",
        "CANARY_PERCENT",
        "CHALLENGER_PATH",
        "FORCE_BASELINE",
        "PPO_POLICY_PATH",
        "RELEASE_PATH",
        "RETAIN_ARM_MEMORY_MB",
        "RETAIN_BUDGET_USD",
        "RETAIN_EXPLORATION",
        "RETAIN_HOLD_OUT_PERCENT",
        "RETAIN_KEEP_ALIVE",
        "RETAIN_KEEP_DAYS",
        "RETAIN_WORKERS",
        "RETAIN_WORKER_MEMORY_MB",
        "RISK_MODEL_PATH",
        "RLHF_PATH",
        "RM_PATH",
        "SFT_PATH",
      ], name)
    ])
    error_message = "service_settings: wants settings of the service that are no secrets (docs/SETTINGS.md), each with a value of one line."
  }
}

variable "pushed_images" {
  description = "What `make images PUSH=` wrote. While the file isn't there, no machines are made."
  type        = string
  default     = "../../build/images.json"
}

variable "resident_machine" {
  description = "The type of the two machines that are always on."
  type        = string
  default     = "e2-standard-2"

  validation {
    condition     = contains([for price in yamldecode(file("${path.module}/../prices.yaml")).prices : price.machine if price.region == var.region], var.resident_machine)
    error_message = "resident_machine: infra/prices.yaml has no price of it."
  }
}

variable "cpu_machine" {
  description = "The type of the machines of the pool cpu-spot, as costs.machines of the experiment names it."
  type        = string
  default     = "e2-standard-4"

  validation {
    condition     = contains([for price in yamldecode(file("${path.module}/../prices.yaml")).prices : price.machine if price.region == var.region], var.cpu_machine)
    error_message = "cpu_machine: infra/prices.yaml has no price of it."
  }
}

variable "gpu_machine" {
  description = "The type of the machines of the pools gpu-spot and gpu-on-demand. A g2 machine comes with its L4."
  type        = string
  default     = "g2-standard-4"

  validation {
    condition = (
      startswith(var.gpu_machine, "g2-") &&
      contains([for price in yamldecode(file("${path.module}/../prices.yaml")).prices : price.machine if price.region == var.region], var.gpu_machine)
    )
    error_message = "gpu_machine: wants a g2 machine that infra/prices.yaml has a price of."
  }
}

variable "gpu_image" {
  description = "The boot image of machines with a GPU: with Docker, NVIDIA's container toolkit and a driver that knows CUDA 13 (580 or later)."
  type        = string
  default     = "projects/deeplearning-platform-release/global/images/family/common-cu129-ubuntu-2204-nvidia-580"

  validation {
    condition     = can(regex("^projects/[a-z0-9-]+/global/images/(family/)?[a-z0-9-]+$", var.gpu_image))
    error_message = "gpu_image: wants projects/PROJECT/global/images/family/FAMILY."
  }
}

variable "vertex" {
  description = "Whether the pool gpu-vertex can be used: an account for its jobs, and a way from these to Prefect's server."
  type        = bool
  default     = false
}

variable "idle_seconds" {
  description = "For how long a machine of a pool waits for another stage before it deletes itself."
  type        = number
  default     = 300

  validation {
    condition     = var.idle_seconds >= 60 && var.idle_seconds <= 3600
    error_message = "idle_seconds: wants 60 to 3600. A run's next stage begins within seconds, its next attempt within a minute."
  }
}

variable "budget_usd" {
  description = "What the project may cost in a month until somebody is told. Google stops nothing; the ledger of a run does."
  type        = number
  default     = 150

  validation {
    condition     = var.budget_usd >= 1 && floor(var.budget_usd) == var.budget_usd
    error_message = "budget_usd: wants whole dollars, at least 1."
  }
}

variable "budget_email" {
  description = "Who is told, beside the administrators of the billing account."
  type        = string

  validation {
    condition     = can(regex("^[^@ ]+@[^@ ]+\\.[^@ ]+$", var.budget_email))
    error_message = "budget_email: wants an address of e-mail."
  }
}
