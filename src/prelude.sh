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
# holders PATTERN…: processes that have a file open whose path fits.
holders() {
  for pattern; do find /proc/[0-9]*/fd -lname "$pattern" 2>/dev/null; done | cut -d/ -f3 | sort -u
}
# group_of PROCESS: its process group, after a name that may hold blanks and parentheses (proc_pid_stat(5)).
group_of() { sed 's/.*) . [0-9]* \([0-9]*\) .*/\1/' "/proc/$1/stat" 2>/dev/null; }
# end_groups_of PROCESS…: ends their process groups, but not this one; what ignores SIGTERM is killed.
end_groups_of() {
  own=$(group_of $$)
  groups=$(for process; do group_of "$process"; done | sort -u | grep -vxF -e "$own")
  for signal in TERM KILL; do
    for group in $groups; do kill -s "$signal" -- "-$group" 2>/dev/null; done
    for second in 1 2 3 4 5 6 7 8 9 10; do
      left=$(for group in $groups; do kill -s 0 -- "-$group" 2>/dev/null && echo "$group"; done)
      [ -n "$left" ] || return 0
      sleep 1
    done
  done
}
# take_turn SECONDS: one script that changes something at a time. That of a killed run goes on: it is
# waited for so long, and then ended.
take_turn() {
  exec 9>/run/.nvstage.lock
  command -v flock >/dev/null 2>&1 || return 0
  flock -w "$1" 9 && return 0
  end_groups_of $(holders /run/.nvstage.lock)
  flock -w 30 9 || { say busy; exit 1; }
}
# dpkg_holders: processes that hold a lock of dpkg's, apt's among them.
dpkg_holders() { holders /var/lib/dpkg/lock /var/lib/dpkg/lock-frontend; }
# is_dpkg_unfinished: true if a dpkg was cut short, or is at work. Its audit does not tell of changes that
# are not yet in its status file (dpkg `lib/dpkg/dbmodify.c`); apt refuses to work before they are.
is_dpkg_unfinished() { [ -n "$(ls /var/lib/dpkg/updates 2>/dev/null)" ] || [ -n "$(dpkg --audit 2>/dev/null)" ]; }
# settle_dpkg SECONDS: waits until nobody holds dpkg's locks, and finishes what was cut short. What a
# killed run of nvstage has begun is ended after that time; somebody else's apt is not.
settle_dpkg() {
  command -v dpkg >/dev/null 2>&1 || return 0
  waited=0
  while found=$(dpkg_holders); [ -n "$found" ]; do
    if [ "$waited" -ge "$1" ]; then
      ours=$(for process in $found; do grep -qz '^NVSTAGE_INSIDE=' "/proc/$process/environ" 2>/dev/null && echo "$process"; done)
      if [ "$ours" != "$found" ] || [ "$waited" -gt "$(($1 + 60))" ]; then
        for process in $found; do say held "$process" "$(cat "/proc/$process/comm" 2>/dev/null)"; done
        exit 1
      fi
      end_groups_of $ours
    fi
    sleep 1
    waited=$((waited + 1))
  done
  is_dpkg_unfinished || return 0
  # What cannot be configured yet lacks something that apt brings, or is about to be removed.
  dpkg --force-confdef --force-confold --configure -a </dev/null 9>&- || :
}
