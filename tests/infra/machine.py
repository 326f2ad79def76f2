"""A machine of Compute Engine in a folder: its start-up script runs as it is, with doubles of the commands that would
change this machine. They write down how they were called."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

from engine.fingerprint import ROOT
from tests.infra.google_double import Google

STARTUP = ROOT / "infra" / "startup"
# As infra/terraform/ puts them together.
PARTS = {
    "worker": ("common.sh", "worker.sh"),
    "host": ("common.sh", "resident.sh", "host.sh"),
    "serve": ("common.sh", "resident.sh", "serve.sh"),
}

RECORD = 'printf "%s\\n" "${0##*/} $*" >> "$MACHINE/calls"\n'
RELEASE = "gs://retain-example-retain/store/exp_001_mvp/release/0123"  # which answers, as deploy.rules prints it
# The real curl, which finds Google's services at the double.
CURL = """#!/bin/bash
for word in "$@"; do
  [[ "$word" =~ ^https://[a-z]+[.]googleapis[.]com(/.*)$ ]] && word="http://$GCE_METADATA_HOST${BASH_REMATCH[1]}"
  words+=("$word")
done
printf '%s\\n' "$@" >> "$MACHINE/arguments"
exec @REAL@ --noproxy '*' "${words[@]}"
"""
# `stages` holds the containers of stages that run: a line for each look, the last one again and again. `taken`: a stage
# that the worker takes just before it stops. `stubborn`: containers outlive SIGTERM by two looks. `champion`: the
# release that answers where no setting names one. `sick`: the state of serve-1, such as "running 0 starting".
DOCKER = """#!/bin/bash
@RECORD@
case "$1" in
  ps)
    head -n 1 "$MACHINE/stages"
    if [ "$(wc -l < "$MACHINE/stages")" -gt 1 ]; then sed -i 1d "$MACHINE/stages"; fi ;;
  kill)
    echo > "$MACHINE/stages"
    if [ -e "$MACHINE/stubborn" ]; then printf 'one\\none\\n\\n' > "$MACHINE/stages"; fi ;;
  stop) if [ -e "$MACHINE/taken" ]; then rm "$MACHINE/taken"; printf 'late\\nlate\\n\\n' > "$MACHINE/stages"; fi ;;
  pull) [ ! -e "$MACHINE/no-image" ] ;;
  image) [ -e "$MACHINE/has-image" ] ;;
  network) [ "$2" = create ] ;;
  inspect)
    case "$*" in *serve-1-id) if [ -e "$MACHINE/sick" ]; then cat "$MACHINE/sick"; exit; fi ;; esac
    echo running 0 healthy ;;
  run)
    [ ! -e "$MACHINE/no-toolkit" ] || case "$*" in *--gpus=*) exit 125 ;; esac
    [ ! -e "$MACHINE/no-release" ] || case "$*" in *deploy.rules*) exit 2 ;; esac
    case "$*" in *deploy.rules*) for file in rules prometheus alertmanager; do
      echo "page: ${RETAIN_PAGE_URL-none}" > "$RETAIN_ROOT/var/lib/retain/serve/rendered/$file.yaml"; done
      case "$*" in *--env=RELEASE_PATH*) echo "${RELEASE_PATH:-$(cat "$MACHINE/champion")}" ;; esac ;; esac ;;
esac
"""
COMPOSE = """#!/bin/bash
@RECORD@
case "$*" in *" ps --quiet "*) echo "${@: -1}-id"; exit ;; esac
env > "$MACHINE/environment"
"""
REAL = '#!/bin/bash\n@RECORD@exec @REAL@ "$@"\n'
QUIET = "#!/bin/bash\n@RECORD@\n"
DOUBLES = (
    {"curl": CURL, "docker": DOCKER, "docker-compose": COMPOSE}
    | dict.fromkeys(("blkid", "mkfs.ext4"), REAL)
    | dict.fromkeys(("apt-get", "chown", "mount", "mountpoint", "nvidia-smi", "systemctl"), QUIET)
)
SYSTEM = os.pathsep.join((os.environ["PATH"], "/usr/sbin", "/sbin"))
DISK_BYTES = 4 << 20


class Machine:
    def __init__(self, folder: Path, google: Google, kind: str) -> None:
        self.folder, self.google, self.root = folder, google, folder / "root"
        programs = folder / "bin"
        programs.mkdir(parents=True)
        for name, content in DOUBLES.items():
            real = shutil.which(name, path=SYSTEM)
            assert "@REAL@" not in content or real is not None, f"{name} isn't installed"
            path = programs / name
            path.write_text(content.replace("@RECORD@", RECORD).replace("@REAL@", shlex.quote(real or "")))
            path.chmod(0o755)
        self.disk = self.root / "dev/disk/by-id/google-retain-data"
        for file in (self.root / "var/run/docker.sock", self.root / "etc/fstab", self.disk):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        os.truncate(self.disk, DISK_BYTES)
        for name in ("calls", "arguments"):
            (folder / name).touch()
        self.stages()
        (folder / "champion").write_text(f"{RELEASE}\n")
        self.script = folder / "startup-script"
        self.script.write_text("\n".join((STARTUP / part).read_text(encoding="utf-8") for part in PARTS[kind]))
        self.environment = {
            "PATH": f"{programs}:{SYSTEM}",
            "MACHINE": str(folder),
            "GCE_METADATA_HOST": google.host,
            "RETAIN_ROOT": str(self.root),
            "RETAIN_PAUSE_S": "0",
            "RETAIN_LOOK_S": "0.05",
            "RETAIN_AGAIN_S": "0.05",
            "RETAIN_GONE_S": "0",
        }

    def stages(self, *looks: str) -> None:
        """What `docker ps` finds of stages, look by look."""
        (self.folder / "stages").write_text("".join(f"{each}\n" for each in (*looks, "")))

    def state(self, name: str) -> Path:
        return self.root / "var" / "lib" / "retain" / name

    def run(self, verb: str = "begin") -> subprocess.CompletedProcess[str]:
        said = self.folder / "said"  # a file: a question to the metadata server may outlive who asked it by a moment
        with said.open("w") as file:
            ended = subprocess.run(
                self._command(verb), env=self.environment, stdout=file, stderr=file, timeout=60, check=False
            )
        return subprocess.CompletedProcess(ended.args, ended.returncode, stderr=said.read_text())

    def start(self, verb: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command(verb), env=self.environment, stderr=subprocess.PIPE, text=True, process_group=0
        )

    def _command(self, verb: str) -> list[str]:
        """At the start Google's agent runs the script; later systemd runs the copy that the script has made."""
        return ["bash", str(self.script)] if verb == "begin" else ["bash", str(self.state("machine.sh")), verb]

    def calls(self, *begins: str) -> list[str]:
        lines = (self.folder / "calls").read_text().splitlines()
        return [line for line in lines if line.startswith(begins or ("",))]

    @property
    def arguments(self) -> str:
        """All that `ps` would have shown."""
        return (self.folder / "calls").read_text() + (self.folder / "arguments").read_text()

    @property
    def environment_of_compose(self) -> dict[str, str]:
        pairs = (line.partition("=") for line in (self.folder / "environment").read_text().splitlines())
        return {name: value for name, _, value in pairs}
