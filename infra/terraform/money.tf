# Google tells, and stops nothing: what stops a run is its ledger. Beside it the place for the billing export, by which the
# ledger's "metered" is compared with what was billed. The export itself is turned on in the console.

resource "google_monitoring_notification_channel" "budget" {
  display_name = "Retain's budget"
  type         = "email"
  labels       = { email_address = var.budget_email }

  depends_on = [google_project_service.used]
}

resource "google_billing_budget" "retain" {
  billing_account = var.billing_account
  display_name    = "Retain (${var.project})"

  budget_filter {
    projects               = ["projects/${data.google_project.this.number}"] # Google answers with the number, and by the id every apply would change it
    credit_types_treatment = "EXCLUDE_ALL_CREDITS"
  }

  amount {
    specified_amount {
      currency_code = "USD" # has to be that of the billing account
      units         = tostring(var.budget_usd)
    }
  }

  dynamic "threshold_rules" {
    for_each = [0.5, 0.8, 1.0]

    content {
      threshold_percent = threshold_rules.value
    }
  }

  threshold_rules {
    threshold_percent = 1.0
    spend_basis       = "FORECASTED_SPEND"
  }

  all_updates_rule {
    monitoring_notification_channels = [google_monitoring_notification_channel.budget.id]
  }

  depends_on = [google_project_service.used]
}

resource "google_bigquery_dataset" "billing" {
  dataset_id  = "retain_billing"
  location    = var.region
  description = "The billing export, to be turned on in the console: Billing, Billing export"

  depends_on = [google_project_service.used]
}
