# Repository and packages, by the container's own apt.
# $1 key path, $2 key text, $3 sources path, $4 sources text, $5 pins path, $6 pins text,
# $7 patterns of packages that must not come in, $8 exceptions to them, then the packages

put() { # put PATH TEXT: replaced in one step, and only if it differs
  if [ ! -f "$1" ] || [ "$(cat "$1"; echo .)" != "$2
." ]; then
    mkdir -p "${1%/*}" && printf '%s\n' "$2" >"$1.nvstage" && mv -f "$1.nvstage" "$1" || {
      say failed "write $1"
      exit 1
    }
  fi
}
# The pins first: from the moment the repository is known, no driver may come from it.
put "$5" "$6"
if [ -n "$3" ]; then
  put "$1" "$2"
  put "$3" "$4"
fi
denied=$7 allowed=$8
shift 8
wait_until_up 60

apt() { apt-get -q -o DPkg::Lock::Timeout=300 -o APT::Update::Error-Mode=any \
  -o Acquire::Retries=3 "$@"; }

# What an interrupted dpkg left behind is finished first, or apt refuses everything.
if [ -n "$(dpkg --audit)" ] || [ -n "$(ls /var/lib/dpkg/updates 2>/dev/null)" ]; then
  dpkg --force-confdef --force-confold --configure -a </dev/null || :
fi

# DPkg::Lock::Timeout is not for the lock on the lists, which the daily update holds after a boot.
waited=0
until output=$(apt update </dev/null 2>&1); do
  case $output in
    *'Could not get lock'*) [ "$waited" -lt 300 ] && sleep 5 && waited=$((waited + 5)) && continue ;;
  esac
  printf '%s\n' "$output"
  say failed "apt-get update"
  exit 1
done
printf '%s\n' "$output"

simulated=$(apt -s install --no-install-recommends "$@" </dev/null 2>&1) || {
  printf '%s\n' "$simulated"
  say failed "apt-get --simulate install"
  exit 1
}
refused=$(printf '%s\n' "$simulated" | while read -r verb name rest; do
  case $verb in
    Remv) echo "removes $name" ;;
    Inst)
      set -f
      bad=
      for pattern in $denied; do case $name in $pattern) bad=yes ;; esac; done
      for pattern in $allowed; do case $name in $pattern) bad= ;; esac; done
      [ -n "$bad" ] && echo "brings in $name"
      set +f ;;
  esac
done)
if [ -n "$refused" ]; then
  printf '%s\n' "$refused" | sed 's/^/@nvstage refused /'
  exit 1
fi

apt install -y --no-install-recommends --no-remove \
  -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold \
  -o APT::Keep-Downloaded-Packages=false "$@" </dev/null || { say failed "apt-get install"; exit 1; }
audit=$(dpkg --audit)
if [ -n "$audit" ]; then
  printf '%s\n' "$audit"
  say failed "dpkg --audit"
  exit 1
fi
say end
