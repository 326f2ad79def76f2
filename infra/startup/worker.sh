# A machine of a work pool: it carries out one stage after the other, and deletes itself when it has had nothing to do
# for a while. Groups of such machines have size 0 until somebody grows them.
#
# begin (the start-up): hands over to a service. watch: prepares the machine and looks after it. leave: the machine is
# about to stop, and Google gives it 30 seconds; the containers save what they have. systemd calls it at any shutdown.

STAGES=(--filter label=io.prefect.flow-run-id) # set by Prefect's worker
LOOK_S="${RETAIN_LOOK_S:-10}"                   # between two looks at whether there is work
SAVE_S=25                                       # for the containers' last checkpoints
PULL_S=600                                      # for a container, whose image is pulled; PENDING_S of flows/witness.py
GONE_S="${RETAIN_GONE_S:-600}"                  # after which a machine that Google has agreed to delete is gone

begin() {
  serve_as retain-worker "ExecStop=/bin/bash $SCRIPT leave" "TimeoutStopSec=$((SAVE_S + 3))"
}

prepare() {
  local pool gpu server image store auth own_name docker_group name
  pool="$(attribute retain-pool)"
  gpu="$(attribute retain-gpu)"
  own_name="$(metadata instance/name)"
  server="$(attribute retain-server)"
  image="$(attribute retain-image)"
  store="$(attribute retain-store)"
  auth="$(secret retain-prefect-secret)"
  [[ "$auth" == *:* ]] || fail "the password of Prefect's server is no name:password"
  if [[ "$gpu" == true ]]; then
    await "the GPU's driver" nvidia-smi
    install_unless docker docker.io # not every image with the driver has it
  fi
  await "Docker" docker info
  log_in
  pull "$image" || fail "the worker's image can't be pulled: $image"
  if [[ "$gpu" == true ]]; then
    # As stages will: otherwise the machine would take one after the other, and each would fail.
    docker run --rm --gpus=all "$image" nvidia-smi >/dev/null ||
      fail "containers don't see the GPU: gpu_image wants NVIDIA's container toolkit"
  fi
  # Where containers of infra/pools/ are put; on this machine they reach the server by its address.
  docker network inspect retain >/dev/null 2>&1 || docker network create retain >/dev/null
  {
    printf 'PREFECT_API_URL=%s\nPREFECT_API_AUTH_STRING=%s\n' "$server" "$auth"
    # As infra/compose.yaml has it for the worker there.
    printf 'PREFECT_CLIENT_RETRY_EXTRA_CODES=500\nPREFECT_SERVER_ALLOW_EPHEMERAL_MODE=false\n'
    printf 'PREFECT_WORKER_QUERY_SECONDS=2\nDOCKER_CONFIG=/registry\nRETAIN_STORE=%s\n' "$store"
  } | write "$STATE/worker.env" 600
  printf %s "$auth" | write "$STATE/prefect-auth" 600
  for name in retain-worker retain-witness; do
    docker rm --force "$name" >/dev/null 2>&1 || true # of before a restart
  done
  docker_group="$(stat --format=%g "$ROOT/var/run/docker.sock")"
  local container=(
    docker run --detach --restart=always --network=retain --env-file="$STATE/worker.env"
    --group-add="$docker_group" --volume=/var/run/docker.sock:/var/run/docker.sock
    --log-opt=max-size=10m --log-opt=max-file=3
  )
  "${container[@]}" --name=retain-witness "$image" python -m flows.witness "$pool" >/dev/null
  # One stage at a time: it may want the machine's memory and its one GPU.
  "${container[@]}" --name=retain-worker --volume="$LOGIN:/registry:ro" "$image" \
    prefect worker start --pool="$pool" --type=docker --name="$own_name" --limit=1 \
    --install-policy=never --no-create-pool-if-not-found >/dev/null
  say "works for the pool $pool of $server"
}

await() { # WHAT COMMAND...
  local what="$1" tries
  shift
  for ((tries = 0; tries < 60; tries++)); do
    "$@" >/dev/null 2>&1 && return 0
    sleep "${RETAIN_PAUSE_S:-5}"
  done
  fail "$what isn't there after five minutes"
}

watch() {
  # A process of its own, in which a command that fails ends it.
  if ! bash "$SCRIPT" prepare; then
    say "a machine that can't work only costs money"
    delete_instance
  fi
  local idle_s idle_since=$SECONDS worked_at=$SECONDS
  idle_s="$(attribute retain-idle-seconds)"
  leave_when_preempted &
  trap 'kill "$!" 2>/dev/null' EXIT
  while true; do
    log_in || say "the login at the registry could not be renewed"
    if at_work; then
      idle_since=$SECONDS worked_at=$SECONDS
    elif ((SECONDS - worked_at < PULL_S)) && work_is_waiting; then
      idle_since=$SECONDS
    elif ((SECONDS - idle_since >= idle_s)); then
      docker stop -t 10 retain-worker >/dev/null 2>&1 || true
      if ! at_work; then # nor has the worker taken something at the last moment
        say "nothing to do for $idle_s seconds"
        delete_instance
      fi
      docker start retain-worker >/dev/null
    fi
    sleep "$LOOK_S"
  done
}

# An engine that doesn't answer counts as being at work: rather an hour too much than a stage lost.
at_work() {
  local running
  running="$(docker ps --quiet "${STAGES[@]}")" || return 0
  [[ -n "$running" ]]
}

# Whether a flow run of the pool is Pending, as one is whose image is being pulled. A server that doesn't answer has none.
work_is_waiting() {
  local pool server auth answer
  pool="$(attribute retain-pool)" || return 1
  server="$(attribute retain-server)" || return 1
  auth="$(base64 --wrap=0 "$STATE/prefect-auth")" || return 1
  answer="$(printf 'Authorization: Basic %s\n' "$auth" |
    curl --silent --fail --max-time 10 --header @- --header 'Content-Type: application/json' --data \
      '{"flow_runs": {"state": {"type": {"any_": ["PENDING"]}}}, "work_pools": {"name": {"any_": ["'"$pool"'"]}}}' \
      "$server/flow_runs/count")" || return 1
  [[ "$answer" =~ ^[1-9][0-9]*$ ]]
}

# Through its group, which otherwise would make another one in its place. Tried until it is accepted. Google deletes it
# afterwards and may fail at that: a machine that is still there then begins anew, as a service that has failed.
delete_instance() {
  local group zone name answer
  until group="$(attribute created-by)" && zone="$(metadata instance/zone)" && name="$(metadata instance/name)" &&
    answer="$(google POST "https://compute.googleapis.com/compute/v1/$group/deleteInstances" \
      "{\"instances\": [\"zones/${zone##*/}/instances/$name\"]}" 2>&1)"; do
    say "error: this machine could not be deleted, and goes on costing money: ${answer:-no metadata}"
    sleep "$((${LOOK_S%.*} * 6 + 1))"
  done
  say "$name is deleted from $group"
  sleep "$GONE_S"
  fail "$name should be gone by now, and is not"
}

leave_when_preempted() {
  # The first time without waiting for a change: the notice may have come before.
  local how="timeout_sec=0" answer
  while true; do
    if answer="$(curl --silent --fail --max-time 30 --header 'Metadata-Flavor: Google' \
      "$METADATA/instance/preempted?$how")"; then
      [[ "$answer" == TRUE ]] && break
      how="wait_for_change=true&timeout_sec=10"
    else
      sleep 1
    fi
  done
  say "the machine is being taken away"
  leave
}

leave() {
  local containers stopping tries
  docker stop -t 2 retain-worker >/dev/null 2>&1 & # so that it takes nothing more
  stopping=$!
  containers="$(docker ps --quiet "${STAGES[@]}")"
  if [[ -n "$containers" ]]; then
    # shellcheck disable=SC2086 # one word each
    docker kill --signal=TERM $containers >/dev/null 2>&1 || true # one may have ended just now
    for ((tries = 0; tries < SAVE_S * 2; tries++)); do
      [[ -z "$(docker ps --quiet "${STAGES[@]}")" ]] && break
      sleep 0.5
    done
    sleep 1 # in which the witness puts their ends into the store
  fi
  wait "$stopping" || true
}

case "${1:-begin}" in
begin | prepare | watch | leave) "${1:-begin}" ;;
*) fail "$1: begin, prepare, watch or leave" ;;
esac
