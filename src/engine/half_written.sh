# What an installer that was cut short has begun to write and has no record of; what goes on inside is waited for first.
# $1 the installer's record; then the paths that it makes and that did not exist before it
record=$1
shift
exec 9>/run/.nvstage.lock
command -v flock >/dev/null 2>&1 && { flock -w 120 9 || { say busy; exit 1; }; }
# The original writes its record after each file, and moves a file of others away before it writes its own.
entries() { sed -n "3,\$s/^\($1\): \(\/.*\)/\2/p" "$record" 2>/dev/null; }
finished="
$(entries '[01]')
"
moved=$(entries '2\|[1-9][0-9][0-9][0-9]*')
while read -r path; do
  case $finished in *"
$path
"*) continue ;; esac
  [ -f "$path" ] || [ -L "$path" ] || continue
  rm -f "$path" || { say failed "rm $path"; exit 1; }
  say removed "$path"
done <<END
$(printf '%s\n' "$@" "$moved" | grep '^/' | sort -u)
END
say end
