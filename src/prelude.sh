# What every script inside a container begins with.
say() { printf '@nvstage %s\n' "$*"; }
say begin
# wait_until_up SECONDS: until systemd has finished booting; without systemd there is nothing to wait for.
wait_until_up() {
  waited=0 state=
  while [ "$waited" -lt "$1" ]; do
    command -v systemctl >/dev/null 2>&1 || break
    state=$(systemctl is-system-running 2>/dev/null)
    case $state in running|degraded|maintenance|stopping) break ;; esac
    sleep 1
    waited=$((waited + 1))
  done
}
