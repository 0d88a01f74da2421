# What a container needs to use what its host shares with it; with nothing to use, what is left of it goes.
# $6 directories of libraries, one a line; $7 links, one a line: path and target; $8 whether the
# driver is shared, whose libraries change with the host's: driver, or nothing
conf=/etc/ld.so.conf.d/nvstage.conf
home=/usr/lib/nvstage
list=$home/links
unit=nvstage-ldconfig.service
exec 9>/run/.nvstage.lock
command -v flock >/dev/null 2>&1 && { flock -w 900 9 || { say busy; exit 1; }; }
failed() { say failed "$*"; exit 1; }
put() { # put FILE TEXT: at once, or not at all
  mkdir -p "${1%/*}" && printf '%s\n' "$2" >"$1.nvstage" && mv -f "$1.nvstage" "$1" || failed "write $1"
}
is_ours() { # is_ours PATH: a link that we made, or one into what is shared
  case $(readlink "$1") in "$home"/*) return 0 ;; esac
  printf '%s\n' "$before" | grep -qxF -e "$1 $(readlink "$1")"
}
before=$(cat "$list" 2>/dev/null)
if [ -n "$7" ]; then
  # Known before they are made: what a run that is cut short leaves is taken away by the next.
  put "$list" "$(printf '%s\n%s\nunfinished\n' "$before" "$7" | sed '/^$/d' | sort -u)"
  while read -r path target; do
    [ "$(readlink "$path")" = "$target" ] && continue
    if [ -e "$path" ] || [ -L "$path" ]; then
      is_ours "$path" || { say kept "$path"; continue; }
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
