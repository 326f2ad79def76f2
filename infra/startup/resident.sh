# What the two machines that are always on have in common: Docker, a disk that outlives the machine, a password that
# nobody else has to know, and the login at the registry, renewed.
#
# begin (the start-up): hands over to a service. watch: tries `up` until that has worked, since a secret, the registry or
# the first release may not be there yet; then renews the login.

DATA="$ROOT/mnt/retain"
DISK="$ROOT/dev/disk/by-id/google-retain-data"

begin() {
  serve_as retain-machine
}

watch() {
  # A process of its own, in which a command that fails ends it.
  until bash "$SCRIPT" up; do
    say "tries again in a minute"
    sleep "${RETAIN_AGAIN_S:-60}"
  done
  while true; do
    sleep "${RETAIN_LOOK_S:-600}"
    log_in || say "the login at the registry could not be renewed"
  done
}

install_docker() {
  mount_data
  mkdir --parents "$ROOT/etc/docker"
  # Databases are volumes of Docker, so all that it keeps lies on that disk, and it waits for it.
  printf '{"data-root": "%s/docker", "log-opts": {"max-size": "10m", "max-file": "3"}}\n' "$DATA" |
    write "$ROOT/etc/docker/daemon.json" 644
  printf '[Unit]\nRequiresMountsFor=%s\n' "$DATA" | write "$ROOT/etc/systemd/system/docker.service.d/retain.conf" 644
  install_unless docker-compose docker.io docker-compose
}

mount_data() {
  local found=0
  head --bytes=1 "$DISK" >/dev/null || fail "the disk retain-data can't be read: $DISK"
  # 2: there is nothing on it. By its content, since what the system remembers of a disk may be empty so soon after a start.
  blkid --probe "$DISK" >/dev/null || found=$?
  case $found in
  0) ;;
  2) mkfs.ext4 -q -m 0 "$DISK" >&2 ;; # once, for ever
  *) fail "the disk retain-data holds something that nobody knows, and is left alone: $DISK" ;;
  esac
  mkdir --parents "$DATA"
  grep --quiet --no-messages " $DATA " "$ROOT/etc/fstab" ||
    printf '%s %s ext4 discard,defaults,nofail 0 2\n' "$DISK" "$DATA" >>"$ROOT/etc/fstab"
  mountpoint --quiet "$DATA" || mount "$DATA"
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
