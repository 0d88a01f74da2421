# What a container needs to use what its host shares with it; with nothing to use, what is left of it goes.
# $6 directories of libraries, one a line; $7 links, one a line: path and target; $8 whether the
# driver is shared, whose libraries change with the host's: driver, or nothing; $9 the paths of those
# links for which something of the container's own is moved aside, one a line
conf=/etc/ld.so.conf.d/nvstage.conf
home=/usr/lib/nvstage
list=$home/links
# What was moved aside, one a line: path, and where it is now.
aside=$home/aside
unit=nvstage-ldconfig.service
take_turn 900
failed() { say failed "$*"; exit 1; }
put() { # put FILE TEXT: at once, or not at all
  mkdir -p "${1%/*}" && printf '%s\n' "$2" >"$1.nvstage" && mv -f "$1.nvstage" "$1" || failed "write $1"
}
is_ours() { # is_ours PATH: a link that we made, or one into what is shared
  case $(readlink "$1") in "$home"/*) return 0 ;; esac
  printf '%s\n' "$before" | grep -qxF -e "$1 $(readlink "$1")"
}
is_there() { [ -e "$1" ] || [ -L "$1" ]; }
move_aside() { # move_aside PATH: within its directory, which is one rename
  to=$1.nvstage-aside
  while is_there "$to"; do to=$to~; done
  # Known before it is done: what a run that is cut short moved is put back all the same.
  put "$aside" "$(cat "$aside" 2>/dev/null; printf '%s %s' "$1" "$to")"
  mv -T "$1" "$to" || failed "move $1 aside"
  say aside "$1" "$to"
}
before=$(cat "$list" 2>/dev/null)
if [ -n "$7" ]; then
  # Known before they are made: what a run that is cut short leaves is taken away by the next.
  put "$list" "$(printf '%s\n%s\nunfinished\n' "$before" "$7" | sed '/^$/d' | sort -u)"
  while read -r path target; do
    [ "$(readlink "$path")" = "$target" ] && continue
    if is_there "$path" && ! is_ours "$path"; then
      printf '%s\n' "$9" | grep -qxF -e "$path" || { say kept "$path"; continue; }
      move_aside "$path"
    fi
    mkdir -p "${path%/*}" && ln -sfn "$target" "$path" || failed "link $path"
  done <<END
$7
END
fi
while read -r path target; do
  [ -n "$target" ] && [ "$(readlink "$path")" = "$target" ] || continue
  printf '%s\n' "$7" | grep -qxF -e "$path $target" || rm -f "$path" || failed "remove $path"
done <<END
$before
END
# What was moved aside for a link that is not made any more is put back; the last one first.
waiting=
linked=$(printf '%s\n' "$7" | cut -d' ' -f1)
while read -r path to; do
  [ -n "$to" ] && is_there "$to" || continue
  if printf '%s\n' "$linked" | grep -qxF -e "$path"; then
    waiting=$(printf '%s %s\n%s' "$path" "$to" "$waiting")
  elif is_there "$path"; then
    say left "$path" "$to"
  else
    mv -T "$to" "$path" || failed "put $path back"
    say back "$path"
  fi
done <<END
$(tac "$aside" 2>/dev/null)
END
if [ -n "$waiting" ]; then put "$aside" "$waiting"; else rm -f "$aside"; fi
if [ -n "$6" ]; then put "$conf" "$6"; else rm -f "$conf"; fi
# Libraries that name each other by a name with the version are found again after the host's driver
# has changed: by this at each start.
wants=/etc/systemd/system/sysinit.target.wants
if [ "$8" = driver ] && command -v systemctl >/dev/null 2>&1; then
  put "/etc/systemd/system/$unit" "[Unit]
Description=Find the libraries of the host's NVIDIA driver
DefaultDependencies=no
After=local-fs.target
Before=sysinit.target
ConditionPathExists=$home/driver/lib

[Service]
Type=oneshot
ExecStart=$(command -v ldconfig)"
  mkdir -p "$wants" && ln -sfn "../$unit" "$wants/$unit" || failed "enable $unit"
else
  rm -f "$wants/$unit" "/etc/systemd/system/$unit"
fi
# Where the container starts just now its own unit may do the same, and both write one temporary file.
ldconfig || { sleep 1 && ldconfig; } || failed ldconfig
# Last of all: what is not as this says was not done to its end.
if [ -n "$7" ]; then
  put "$list" "$7"
else
  rm -f "$list"
  # Where something was shown; what is not empty stays.
  rmdir "$home/driver" "$home" 2>/dev/null
fi
say shared
