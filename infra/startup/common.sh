#!/usr/bin/env bash
# What the start-up scripts of all machines have in common. Terraform puts it before each of them, so that a machine gets
# one file. Google's services are called by REST with the metadata server's token: not every image has gcloud.
set -euo pipefail

METADATA="http://${GCE_METADATA_HOST:-metadata.google.internal}/computeMetadata/v1"
ROOT="${RETAIN_ROOT:-}" # before every path that is written; a test's folder
STATE="$ROOT/var/lib/retain"
LOGIN="$ROOT/run/retain/registry" # what Docker knows the registry by, for this machine and for the worker's container
SCRIPT="$STATE/machine.sh"        # this file, for services that outlive the start-up
CONTAINER_USER=10001              # that of the images

say() { printf 'retain: %s\n' "$*" >&2; }

fail() {
  say "error: $*"
  exit 1
}

metadata() { # PATH
  curl --silent --show-error --fail --retry 5 --retry-connrefused --max-time 20 \
    --header 'Metadata-Flavor: Google' "$METADATA/$1"
}

attribute() { # NAME
  metadata "instance/attributes/$1" 2>/dev/null ||
    fail "the metadata server has no attribute $1 of this instance, or doesn't answer: terraform apply sets it"
}

# The account's access token. The metadata server hands out the same one until five minutes before it ends.
token() {
  local answer
  answer="$(metadata instance/service-accounts/default/token)" || return 1
  sed --quiet 's/.*"access_token" *: *"\([^"]*\)".*/\1/p' <<<"$answer"
}

google() { # METHOD URL [BODY]
  local access
  access="$(token)" || return 1
  # By standard input: everybody can read the arguments of a process.
  printf 'Authorization: Bearer %s\n' "$access" |
    curl --silent --show-error --fail-with-body --retry 3 --max-time 30 --request "$1" --header @- \
      --header 'Content-Type: application/json' ${3+--data "$3"} "$2"
}

secret() { # ATTRIBUTE that has its name
  local project name answer
  project="$(metadata project/project-id)" || return 1
  name="$(attribute "$1")" || return 1
  answer="$(google GET "https://secretmanager.googleapis.com/v1/projects/$project/secrets/$name/versions/latest:access" 2>&1)" ||
    fail "the secret $name can't be read (${answer//[[:space:]]/ }): add a version to it (docs/GOOGLE_CLOUD.md)"
  sed --quiet 's/.*"data" *: *"\([^"]*\)".*/\1/p' <<<"$answer" | base64 --decode
}

write() { # PATH MODE, content from standard input; as a whole, and never readable by others meanwhile
  local aside="$1.$BASHPID"
  mkdir --parents "$(dirname "$1")"
  (umask 077 && cat >"$aside") && chmod "$2" "$aside" && mv "$aside" "$1"
}

# Docker's login at the registry. A token lives for an hour at most, so whoever keeps a machine renews it.
log_in() {
  local registry access login
  registry="$(attribute retain-registry)" || return 1
  access="$(token)" || return 1
  login="$(printf 'oauth2accesstoken:%s' "$access" | base64 --wrap=0)"
  printf '{"auths": {"%s": {"auth": "%s"}}}\n' "$registry" "$login" | write "$LOGIN/config.json.new" 600 || return 1
  chown "$CONTAINER_USER" "$LOGIN/config.json.new" || return 1 # the worker's container pulls the images of stages
  mv "$LOGIN/config.json.new" "$LOGIN/config.json"
}

install_unless() { # COMMAND PACKAGE...
  command -v "$1" >/dev/null && return 0
  local tries options=(-qq -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3)
  for tries in 1 2 3 4 5; do # the system's own updates at the first boot hold locks for minutes
    { apt-get "${options[@]}" update &&
      DEBIAN_FRONTEND=noninteractive apt-get "${options[@]}" install --no-install-recommends "${@:2}"; } >&2 && return 0
    say "${*:2}: could not be installed, try $tries of 5"
    sleep "$((tries * ${RETAIN_PAUSE_S:-5}))"
  done
  fail "${*:2}: could not be installed"
}

pull() { # IMAGE, by its digest: one that is there is the right one, and a restart needs no registry
  local tries
  docker image inspect "$1" >/dev/null 2>&1 && return 0
  for tries in 1 2 3; do
    DOCKER_CONFIG="$LOGIN" docker pull --quiet "$1" >&2 && return 0
    say "$1: could not be pulled, try $tries of 3"
    sleep "$((tries * ${RETAIN_PAUSE_S:-5}))"
  done
  return 1
}

# Starts this file's `watch` as a service, which is stopped before Docker is. Twice does no harm: /etc may be empty after a
# restart, and Google's agent runs the start-up script at every one.
serve_as() { # UNIT [LINE OF ITS SERVICE...]
  local unit="$1"
  shift
  install -D --mode=700 "$0" "$SCRIPT"
  {
    printf '[Unit]\nDescription=Retain\nWants=docker.service network-online.target\n'
    printf 'After=docker.service network-online.target\n'
    printf '[Service]\nExecStart=/bin/bash %s watch\nRestart=on-failure\nRestartSec=5\n' "$SCRIPT"
    printf 'StandardOutput=journal+console\nStandardError=journal+console\n' # the console's lines outlive the machine
    printf '%s\n' "$@"
  } | write "$ROOT/etc/systemd/system/$unit.service" 644
  systemctl daemon-reload
  systemctl restart --no-block "$unit.service"
}
