# Packages taken out again, by the container's own apt; nothing is fetched.
# $1 files to remove; then the packages
files=$1
shift
wait_until_up 60
apt() { apt-get -q -o DPkg::Lock::Timeout=300 "$@"; }
if [ -n "$(dpkg --audit)" ]; then dpkg --force-confdef --force-confold --configure -a </dev/null || :; fi

for package; do
  shift
  case $(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null) in
    ?n*|'') ;;
    *) set -- "$@" "$package" ;;
  esac
done
if [ $# -gt 0 ]; then
  # What nothing needs any more although nobody asked for it, before and after: the difference is ours.
  orphans() { apt -s autoremove </dev/null 2>/dev/null | sed -n 's/^\(Remv\|Purg\) \([^ ]*\).*/\2/p' | sort; }
  simulated=$(apt -s --no-auto-remove purge "$@" </dev/null 2>&1) || {
    printf '%s\n' "$simulated"
    say failed "apt-get --simulate purge"
    exit 1
  }
  others=$(printf '%s\n' "$simulated" | sed -n 's/^\(Remv\|Purg\) \([^ ]*\).*/\2/p' | while read -r name; do
    case " $* " in *" ${name%%:*} "*) ;; *) echo "$name" ;; esac
  done)
  if [ -n "$others" ]; then
    printf '%s\n' "$others" | sed 's/^/@nvstage needed-by /'
    exit 1
  fi
  before=$(orphans)
  apt -y --no-auto-remove purge "$@" </dev/null || { say failed "apt-get purge"; exit 1; }
  set --
  for package in $(orphans); do
    printf '%s\n' "$before" | grep -qxF -e "$package" || set -- "$@" "$package"
  done
  if [ $# -gt 0 ]; then
    apt -y --no-auto-remove purge "$@" </dev/null || { say failed "apt-get purge"; exit 1; }
  fi
fi
rm -f $files || { say failed "rm $files"; exit 1; }
say end
