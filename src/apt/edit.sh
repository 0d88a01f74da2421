# Files of apt's sources changed, each in one step and only as it was read, and others removed.
# $1 files to remove, separated by blanks; then of each file that changes its path, the SHA-256 of what was read,
# and its new text
removed=$1
shift
exec 9>/run/.nvstage.lock
command -v flock >/dev/null 2>&1 && { flock -w 900 9 || { say busy; exit 1; }; }
give_up() { say "$@"; exit 1; }
while [ $# -ge 3 ]; do
  # Where it is a link, what it leads to changes.
  path=$(readlink -f "$1") && [ -f "$path" ] || give_up changed "$1"
  case $(sha256sum <"$path") in
    "$2 "*) ;;
    # Another name led to it before.
    "$(printf '%s' "$3" | sha256sum)") shift 3 && continue ;;
    *) give_up changed "$1" ;;
  esac
  cp -p "$path" "$path.nvstage" && printf '%s' "$3" >"$path.nvstage" && mv -f "$path.nvstage" "$path" || {
    rm -f "$path.nvstage"
    give_up failed "write $1"
  }
  shift 3
done
[ -z "$removed" ] || rm -f $removed || give_up failed "rm $removed"
say end
