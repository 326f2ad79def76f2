# The machine of Prefect's server, of PostgreSQL, and of the worker for the parents of runs (infra/compose.yaml).

up() {
  local folder="$STATE/platform" image bind store auth password
  image="$(attribute retain-image)"
  store="$(attribute retain-store)"
  bind="$(metadata instance/network-interfaces/0/ip)"
  auth="$(secret retain-prefect-secret)"
  [[ "$auth" == *:* ]] || fail "the password of Prefect's server is no name:password"
  install_docker
  password="$(made_once postgres)"
  log_in
  pull "$image" || fail "the image of Prefect's server can't be pulled: $image"
  from_metadata retain-compose "$folder/compose.yaml"
  from_metadata retain-compose-cloud "$folder/compose.cloud.yaml"
  # Exported, and so among the arguments of no process.
  printf -v POSTGRES_PASSWORD %s "$password"
  printf -v PREFECT_SERVER_API_AUTH_STRING %s "$auth"
  printf -v PREFECT_API_AUTH_STRING %s "$auth"
  export POSTGRES_PASSWORD PREFECT_SERVER_API_AUTH_STRING PREFECT_API_AUTH_STRING
  export RETAIN_IMAGE_ORCHESTRATOR="$image" RETAIN_BIND="$bind" RETAIN_STORE="$store" RETAIN_REGISTRY_LOGIN="$LOGIN"
  export RETAIN_HOST_STORE="$store" RETAIN_UID="$CONTAINER_USER" RETAIN_GID="$CONTAINER_USER"
  RETAIN_DOCKER_GID="$(stat --format=%g "$ROOT/var/run/docker.sock")"
  export RETAIN_DOCKER_GID
  docker-compose --project-name retain --project-directory "$folder" --file "$folder/compose.yaml" \
    --file "$folder/compose.cloud.yaml" up --detach >&2
  say "Prefect's server is at $bind:4200"
}

case "${1:-begin}" in
begin | up | watch) "${1:-begin}" ;;
*) fail "$1: begin, up or watch" ;;
esac
