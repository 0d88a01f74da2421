# NVIDIA's uninstaller, inside a container.
# $1 its log; then its options
log=$1
shift
take_turn 900
wait_until_up 60
work=/root/.nvstage
trap 'rm -rf "$work"' EXIT
trap 'exit 143' HUP INT TERM
# It looks for modprobe and its kin, and must never reach the host's modules.
rm -rf "$work" && mkdir -p "$work/bin" || exit 1
for tool in modprobe rmmod lsmod depmod; do ln -s /bin/true "$work/bin/$tool"; done
PATH=$work/bin:$PATH
export PATH
uninstaller=$(command -v nvidia-uninstall) || { say missing; exit 1; }
rm -f "$log"
cd / && "$uninstaller" "$@" </dev/null
say status "$?"
[ -f "${log%/*}/nvidia-uninstall.log" ] && tail -n 20 "${log%/*}/nvidia-uninstall.log" | sed 's/^/@nvstage log /'
say end
