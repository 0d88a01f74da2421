# Packages taken out again, by the container's own apt; nothing is fetched.
# $1 what is done: ask, which says what would go, with what nothing needs any more then; resume, the same
# for packages of a run that was cut short; or purge, which removes exactly the packages that are named; $2 files to remove with them; then the packages
what=$1 files=$2
shift 2
take_turn 900
wait_until_up 60
settle_dpkg 300
apt() { apt-get -q -o DPkg::Lock::Timeout=300 "$@" </dev/null 9>&-; }
removed() { # removed ARGUMENT…: what apt, told so, would remove
  simulated=$(apt -s "$@" 2>&1) || {
    printf '%s\n' "$simulated" >&2
    return 1
  }
  printf '%s\n' "$simulated" | sed -n 's/^\(Remv\|Purg\) \([^ ]*\).*/\2/p' | sort -u
}
status_of() { dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null; }
is_among() { # is_among LINES NAME
  printf '%s\n' "$1" | grep -qxF -e "$2"
}

# present PACKAGE…: those of which something is there.
present() { for package; do case $(status_of "$package") in ?n*|'') ;; *) echo "$package" ;; esac; done; }
is_whole=
if [ "$what" = purge ]; then
  # As long as something is half unpacked or lacks what it depends on, apt removes nothing else. Dpkg
  # does, unless something else needs one of them.
  if is_dpkg_unfinished && [ $# -gt 0 ]; then
    dpkg --purge --force-remove-reinstreq "$@" </dev/null 9>&- || { say failed "dpkg --purge"; exit 1; }
  fi
elif apt check >/dev/null 2>&1; then
  is_whole=yes
elif [ "$what" = resume ]; then
  present "$@" | sed 's/^/@nvstage package /'
  say end
  exit 0
fi

# After a run that did not end the names are those that it found: what had come along with others
# goes only where nothing else needs it. Apt does not say that while dependencies are unmet, nor
# once dpkg has begun: it takes everything that is named for wanted by itself.
named=$(printf '%s\n' "$@")
automatic=
[ -z "$is_whole" ] || automatic=$(apt-mark showauto)
for package; do
  shift
  case $(status_of "$package") in
    ?n*|'') continue ;;
    ?i*) is_among "$automatic" "$package" && continue ;;
  esac
  set -- "$@" "$package"
done
if [ $# -gt 0 ]; then
  going=$(removed --no-auto-remove purge "$@") || { say failed "apt-get --simulate purge"; exit 1; }
  others=$(for name in $going; do is_among "$named" "$name" || echo "$name"; done)
  if [ -n "$others" ]; then
    printf '%s\n' "$others" | sed 's/^/@nvstage needed-by /'
    exit 1
  fi
fi
if [ "$what" != purge ]; then
  going=$*
  unneeded=
  if [ -n "$is_whole" ]; then
    # What nobody asked for and nothing needs, before and after: the difference is ours.
    unneeded=$(removed autoremove) && going=$(removed --auto-remove purge "$@") || {
      say failed "apt-get --simulate autoremove"
      exit 1
    }
  fi
  for name in $going; do
    is_among "$unneeded" "$name" && ! is_among "$named" "$name" || say package "$name"
  done
  say end
  exit 0
fi
if [ $# -gt 0 ]; then
  apt -y --no-auto-remove purge "$@" || { say failed "apt-get purge"; exit 1; }
  # What was half removed before is removed by that, and its configuration stays.
  for package; do
    shift
    case $(status_of "$package") in ?n*|'') ;; *) set -- "$@" "$package" ;; esac
  done
  [ $# -eq 0 ] || apt -y --no-auto-remove purge "$@" || { say failed "apt-get purge"; exit 1; }
fi
rm -f $files || { say failed "rm $files"; exit 1; }
say end
