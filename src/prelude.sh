# What every script inside a container begins with.
say() { printf '@nvstage %s\n' "$*"; }
say begin
umask 022
# wait_until_up SECONDS: until systemd has finished booting; without systemd there is nothing to wait for.
wait_until_up() {
  # In tenths of a second.
  waited=0
  while [ "$waited" -lt "$(($1 * 10))" ]; do
    command -v systemctl >/dev/null 2>&1 || break
    # Its directory is there from the first second on, where it is the init system.
    [ -d /run/systemd/system ] || [ "$waited" -lt 30 ] || break
    case $(systemctl is-system-running 2>/dev/null) in running|degraded|maintenance|stopping) break ;; esac
    # A boot takes about a second, or much longer. Not every `sleep` knows parts of one.
    if [ "$waited" -lt 30 ] && sleep 0.1 2>/dev/null; then waited=$((waited + 1)); else sleep 1; waited=$((waited + 10)); fi
  done
}
