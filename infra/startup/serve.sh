# The machine of the service: deploy/compose.yaml, whose replicas Google's load balancer reaches at this machine's address.

up() {
  local folder="$STATE/serve" image bind store experiment keys page password admin controller assignment compose
  image="$(attribute retain-image)"
  store="$(attribute retain-store)"
  export_settings
  experiment="${RETAIN_EXPERIMENT:?the settings name no experiment}"
  bind="$(metadata instance/network-interfaces/0/ip)"
  keys="$(secret retain-keys-secret)"
  page="$(secret retain-page-secret)"
  if [[ "$page" == none ]]; then
    page=""
    say "nobody is paged: the secret $(attribute retain-page-secret) says none"
  elif [[ ! "$page" =~ ^https?://[^/[:space:]][[:graph:]]*$ ]]; then # it may hold a secret: not repeated
    fail "the secret $(attribute retain-page-secret) wants the address of a webhook, http:// or https://, or none"
  fi
  install_docker
  password="$(made_once postgres)"
  admin="$(made_once admin)"
  controller="$(made_once controller)"
  assignment="$(made_once assignment)" # not the public one: whoever knows it knows who is in which arm
  log_in
  pull "$image" || fail "the image of the service can't be pulled: $image"
  from_metadata retain-compose "$folder/compose.yaml"
  from_metadata retain-compose-cloud "$folder/compose.cloud.yaml"
  mkdir --parents "$folder/rendered"
  chown "$CONTAINER_USER" "$folder/rendered"
  # As flows/stack.py has it: the address of whoever is paged may be a secret, and is filled in inside the container.
  if [[ -n "$page" ]]; then
    printf -v RETAIN_PAGE_URL %s http://page-url.invalid/
    export RETAIN_PAGE_URL
  fi
  # It prints the release that answers: both replicas are held to that one, and another one starts them anew.
  RELEASE_PATH="$(
    docker run --rm --env=RETAIN_STORE="$store" --env=RETAIN_PAGE_URL --env=RELEASE_PATH \
      --volume="$folder/rendered:/rendered" "$image" \
      python -m deploy.rules /rendered --experiment "$experiment" --replicas serve-1:8001,serve-2:8001 \
      --controller controller:8002 --alertmanager alertmanager:9093 --admin-token-file /run/retain/token \
      --controller-token-file /run/retain/token
  )" || fail "the store has no release of $experiment that can be served: $store"
  chmod 755 "$folder/rendered" && chmod 644 "$folder"/rendered/*.yaml
  # Exported, and so among the arguments of no process.
  printf -v POSTGRES_PASSWORD %s "$password"
  printf -v DATABASE_URL %s "postgresql://retain:$password@postgres/retain"
  printf -v RETAIN_API_KEYS %s "$keys"
  printf -v RETAIN_ADMIN_TOKEN %s "$admin"
  printf -v RETAIN_CONTROLLER_TOKEN %s "$controller"
  printf -v ASSIGNMENT_KEY %s "$assignment"
  export POSTGRES_PASSWORD DATABASE_URL RETAIN_API_KEYS RETAIN_ADMIN_TOKEN RETAIN_CONTROLLER_TOKEN ASSIGNMENT_KEY
  [[ -z "$page" ]] || printf -v RETAIN_PAGE_URL %s "$page"
  RETAIN_RENDERED="$(cat "$folder"/rendered/*.yaml | sha256sum | cut --characters=1-12)"
  export RELEASE_PATH RETAIN_RENDERED RETAIN_IMAGE_SERVE="$image" RETAIN_BIND="$bind" RETAIN_STORE="$store"
  export RETAIN_HOST_RENDERED="$folder/rendered"
  compose=(docker-compose --project-name retain-serve --project-directory "$folder" --file "$folder/compose.yaml"
    --file "$folder/compose.cloud.yaml")
  # As flows/stack.py has it: one replica answers while the other one is replaced.
  replace postgres
  replace serve-1
  replace serve-2
  replace controller prometheus alertmanager
  say "the service is at $bind:8000 and $bind:8010"
}

# Starts services, by `compose`, unless they run as they should already, and waits until they are healthy.
replace() { # SERVICE...
  local service
  "${compose[@]}" up --detach --no-deps "$@" >&2
  for service in "$@"; do
    wait_until_healthy "$service"
  done
}

wait_until_healthy() { # SERVICE
  local id status="" health restarts tries
  id="$("${compose[@]}" ps --quiet "$1")"
  for ((tries = 0; tries < 24; tries++)); do
    read -r status restarts health < <(docker inspect \
      --format '{{.State.Status}} {{.RestartCount}} {{.State.Health.Status}}' "$id") ||
      fail "$1 has no container"
    [[ "$health" != healthy ]] || return 0
    [[ "$status" != exited && "$status" != dead && "$restarts" -lt 4 ]] || break
    sleep "${RETAIN_PAUSE_S:-5}"
  done
  fail "$1 isn't healthy ($status, $restarts restarts), so nothing after it was replaced: docker logs $id"
}

# Those of docs/SETTINGS.md that Terraform knows of, NAME=VALUE in a line each; the experiment is always among them.
export_settings() {
  local settings setting
  settings="$(attribute retain-settings)"
  while read -r setting; do
    [[ "$setting" =~ ^[A-Z_]+= ]] || fail "is no setting of the service: $setting"
    export "${setting?}"
  done <<<"$settings"
}

case "${1:-begin}" in
begin | up | watch) "${1:-begin}" ;;
*) fail "$1: begin, up or watch" ;;
esac
