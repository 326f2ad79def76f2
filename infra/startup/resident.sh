# What the two machines that are always on have in common: Docker, a disk that outlives the machine, a password that
# nobody else has to know, and the login at the registry, renewed.

DATA="$ROOT/mnt/retain"
DISK="$ROOT/dev/disk/by-id/google-retain-data"

install_docker() {
  mkdir --parents "$DATA" "$ROOT/etc/docker"
  [[ -n "$(lsblk --noheadings --output FSTYPE "$DISK")" ]] || mkfs.ext4 -q -m 0 "$DISK" # once, for ever
  grep --quiet --no-messages " $DATA " "$ROOT/etc/fstab" ||
    printf '%s %s ext4 discard,defaults,nofail 0 2\n' "$DISK" "$DATA" >>"$ROOT/etc/fstab"
  mountpoint --quiet "$DATA" || mount "$DATA"
  # Databases are volumes of Docker, so all that it keeps lies on that disk, and it waits for it.
  printf '{"data-root": "%s/docker"}\n' "$DATA" | write "$ROOT/etc/docker/daemon.json" 644
  printf '[Unit]\nRequiresMountsFor=%s\n' "$DATA" | write "$ROOT/etc/systemd/system/docker.service.d/retain.conf" 644
  if ! command -v docker-compose >/dev/null; then
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends docker.io docker-compose >/dev/null
  fi
}

made_once() { # NAME: a secret of this machine alone, kept on its disk
  local path="$DATA/secrets/$1"
  [[ -s "$path" ]] || head --bytes=24 /dev/urandom | base64 | tr '+/' '-_' | write "$path" 600
  cat "$path"
}

from_metadata() { # ATTRIBUTE PATH
  local content
  content="$(attribute "$1")"
  write "$2" 644 <<<"$content"
}

watch() {
  while true; do
    log_in || say "the login at the registry could not be renewed"
    sleep "${RETAIN_LOOK_S:-600}"
  done
}
