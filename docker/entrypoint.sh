#!/bin/sh
# docker run IMAGE pretrain configs/…   the commands of st-ssl by name
# docker run IMAGE torchrun …           any other program as it is
set -u

# A uid that the image does not know (--user 1234) has no name and the root folder as its home.
if ! id -un >/dev/null 2>&1; then
  export USER="${USER:-uid$(id -u)}"
fi
# Caches (torch, Hugging Face, matplotlib, triton) live below HOME.
if [ ! -d "${HOME:-}" ] || [ ! -w "$HOME" ]; then
  HOME="${TMPDIR:-/tmp}/home-$(id -u)"
  export HOME
  mkdir -p "$HOME" 2>/dev/null || echo "warning: nowhere to keep caches: add --tmpfs /tmp" >&2
fi

# Batches of a run need no /dev/shm; NCCL between GPUs does, and ends in a message that does not name it.
shm=$(df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 {print $2}')
if [ "${1:-}" = torchrun ] && [ -n "$shm" ] && [ "$shm" -le 65536 ]; then
  echo "warning: /dev/shm has $((shm / 1024)) MB, too little for NCCL: add --shm-size=8g (or --ipc=host)" >&2
fi

# exec, so that the SIGTERM of `docker stop` reaches the run, which then saves itself.
if [ $# -gt 0 ] && command -v -- "$1" >/dev/null && ! st-ssl --help | awk '{print $1}' | grep -qxF -e "$1"; then
  exec "$@"
fi
exec st-ssl "$@"
