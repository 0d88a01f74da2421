# NVIDIA's installer, inside a container.
# $1 the directory with the tree, or - for a copied .run; $2 the .run, $3 its sha256, $4 the
# installer's log; then the installer's options
tree=$1 run=$2 sha256=$3 log=$4
shift 4
# Two installers at once destroy each other's work. The lock lives as long as the installer that inherits it.
take_turn 900
rm -f "$log"
wait_until_up 60
work=/root/.nvstage
status=

# modprobe and its kin are required by the installer and must never reach the host's modules.
if [ "$tree" = - ]; then
  trap 'rm -rf "$work" "$run"' EXIT
  trap 'exit 143' HUP INT TERM
  found=$(sha256sum <"$run" | cut -d' ' -f1)
  if [ "$found" != "$sha256" ]; then
    say damaged "$(stat -c %s "$run" 2>/dev/null || echo 0)" "$found"
    exit 1
  fi
  rm -rf "$work" && mkdir -p "$work/bin" "$work/tmp" || exit 1
  for tool in modprobe rmmod lsmod depmod; do ln -s /bin/true "$work/bin/$tool"; done
  # As root, tar would give files the owners in the archive, which a container may have no numbers for.
  PATH=$work/bin:$PATH TMPDIR=$work/tmp TAR_OPTIONS=--no-same-owner
  export PATH TMPDIR TAR_OPTIONS
  cd / && sh "$run" "$@" </dev/null
  status=$?
else
  PATH=$tree/.nvstage/bin:$PATH
  export PATH
  cd "$tree" && ./nvidia-installer "$@" </dev/null
  status=$?
fi
say status "$status"
[ -f "$log" ] && tail -c 500000 "$log" | sed 's/^/@nvstage log /'
say end
