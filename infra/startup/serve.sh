# The machine of the service: deploy/compose.yaml, whose replicas Google's load balancer reaches at this machine's address.

up() {
  local folder="$STATE/serve" image bind store experiment keys page password admin controller
  image="$(attribute retain-image)"
  store="$(attribute retain-store)"
  experiment="$(attribute retain-experiment)"
  bind="$(metadata instance/network-interfaces/0/ip)"
  keys="$(secret retain-keys-secret)"
  page="$(secret retain-page-secret)"
  install_docker
  password="$(made_once postgres)"
  admin="$(made_once admin)"
  controller="$(made_once controller)"
  log_in
  pull "$image" || fail "the image of the service can't be pulled: $image"
  from_metadata retain-compose "$folder/compose.yaml"
  from_metadata retain-compose-cloud "$folder/compose.cloud.yaml"
  mkdir --parents "$folder/rendered"
  chown "$CONTAINER_USER" "$folder/rendered"
  # As flows/stack.py has it: the address of whoever is paged may be a secret, and is filled in inside the container.
  if [[ "$page" == http* ]]; then
    printf -v RETAIN_PAGE_URL %s http://page-url.invalid/
    export RETAIN_PAGE_URL
  fi
  docker run --rm --env=RETAIN_STORE="$store" --env=RETAIN_PAGE_URL --volume="$folder/rendered:/rendered" "$image" \
    python -m deploy.rules /rendered --experiment "$experiment" --replicas serve-1:8001,serve-2:8001 \
    --controller controller:8002 --alertmanager alertmanager:9093 --admin-token-file /run/retain/token \
    --controller-token-file /run/retain/token >&2 ||
    fail "the store has no release of $experiment that can be served: $store"
  chmod 755 "$folder/rendered" && chmod 644 "$folder"/rendered/*.yaml
  # Exported, and so among the arguments of no process.
  printf -v POSTGRES_PASSWORD %s "$password"
  printf -v DATABASE_URL %s "postgresql://retain:$password@postgres/retain"
  printf -v RETAIN_API_KEYS %s "$keys"
  printf -v RETAIN_ADMIN_TOKEN %s "$admin"
  printf -v RETAIN_CONTROLLER_TOKEN %s "$controller"
  export POSTGRES_PASSWORD DATABASE_URL RETAIN_API_KEYS RETAIN_ADMIN_TOKEN RETAIN_CONTROLLER_TOKEN
  [[ "$page" != http* ]] || printf -v RETAIN_PAGE_URL %s "$page"
  RETAIN_RENDERED="$(cat "$folder"/rendered/*.yaml | sha256sum | cut --characters=1-12)"
  export RETAIN_RENDERED RETAIN_IMAGE_SERVE="$image" RETAIN_BIND="$bind" RETAIN_STORE="$store"
  export RETAIN_EXPERIMENT="$experiment" RETAIN_HOST_RENDERED="$folder/rendered"
  docker-compose --project-name retain-serve --project-directory "$folder" --file "$folder/compose.yaml" \
    --file "$folder/compose.cloud.yaml" up --detach >&2
  say "the service is at $bind:8000 and $bind:8010"
}

case "${1:-begin}" in
begin | up | watch) "${1:-begin}" ;;
*) fail "$1: begin, up or watch" ;;
esac
