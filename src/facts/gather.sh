# Everything nvstage wants to know of a container, in one go.
# $1 seconds to wait for the system to be up; $2 device nodes; $3 packages; $4 files to hash; $5 whether
# nvidia-smi is asked, which takes seconds where the GPUs sleep: smi, or nothing
LC_ALL=C
export LC_ALL

wait_until_up "$1"

(
  ID='' VERSION_ID=''
  . /etc/os-release 2>/dev/null
  say os "$ID" "$VERSION_ID"
)
say machine "$(uname -m)"
getconf GNU_LIBC_VERSION >/dev/null 2>&1 && say glibc yes
[ -d "/usr/lib/$(uname -m)-linux-gnu" ] && say libraries-of debian
command -v apt-get >/dev/null 2>&1 && say apt yes
command -v sqv >/dev/null 2>&1 && say sqv yes
command -v ldconfig >/dev/null 2>&1 && say ldconfig yes

if command -v dpkg-query >/dev/null 2>&1; then
  # Not installed packages are an error for dpkg-query and simply no answer for us.
  [ -n "$3" ] && dpkg-query -W -f='@nvstage package ${Package} ${Version} ${db:Status-Abbrev}\n' $3 2>/dev/null
  # A driver is a package that owns its libraries where the linker looks, or its kernel modules: no
  # headers, stubs, tools, nor the libraries of `cuda-compat-*`, which lie elsewhere.
  owners=$(grep -lE \
    -e '^(/usr)?/lib(32|64|x32)?/(.*/)?lib(cuda|nvidia-ml)\.so\.[0-9]' \
    -e '^(/usr)?/lib/modules/.*/nvidia(-(current|open|tesla|legacy)[^/]*)?(-(drm|modeset|uvm|peermem))?\.ko(\.(gz|xz|zst))?$' \
    -e '^/usr/src/nvidia[^/]*/dkms\.conf$' \
    /var/lib/dpkg/info/*.list 2>/dev/null | sed 's|.*/||;s|\.list$||')
  [ -n "$owners" ] &&
    dpkg-query -W -f='@nvstage driver-package ${binary:Package} ${Version} ${db:Status-Abbrev}\n' $owners 2>/dev/null
  if is_dpkg_unfinished; then
    if [ -n "$(dpkg_holders)" ]; then say dpkg at-work; else say dpkg cut-short; fi
  fi
fi

for file in $4; do
  [ -f "$file" ] && say file "$file" "$(sha256sum <"$file" | cut -d' ' -f1)"
done

# Nodes of capabilities have mode 0444 and are read; opening for reading and writing makes a file
# that is not there.
open_node() {
  case $1 in
    /dev/nvidia-caps/*) { : <"$1"; } 2>&1 ;;
    *) { : <>"$1"; } 2>&1 ;;
  esac
}
for node in $2; do
  if [ ! -e "$node" ]; then
    say node "$node" No such file or directory
  elif [ -d "$node" ]; then
    say node "$node" directory
  elif [ ! -c "$node" ]; then
    say node "$node" not a device
  elif error=$(open_node "$node"); then
    say node "$node" opens
  else
    say node "$node" "${error##*: }"
  fi
done

for library in libcuda.so.1 libnvidia-ml.so.1; do
  path=$(ldconfig -p 2>/dev/null | sed -n "s|^[[:space:]]*$library .*x86-64.* => ||p;s|^[[:space:]]*$library .*AArch64.* => ||p" | head -n 1)
  [ -n "$path" ] && say library "$library" "$(readlink -f "$path")"
done

if [ "$5" = smi ] && command -v nvidia-smi >/dev/null 2>&1; then
  output=$(timeout 60 nvidia-smi 2>&1)
  say smi "$?"
  smi=$(command -v nvidia-smi)
  file=$(readlink -f "$smi")
  say smi-file "$file"
  # Of the installer's, of the host's that is shared, or of a package.
  case $file in
    /usr/lib/nvstage/*|/dev/*) say smi-owner host ;;
    *) if grep -qxF -e "1: $file" -e "1: $smi" /var/lib/nvidia/log 2>/dev/null; then say smi-owner installer
       elif dpkg-query -S "$file" >/dev/null 2>&1; then say smi-owner package
       fi ;;
  esac
  printf '%s\n' "$output" | head -n 40 | sed 's/^/@nvstage smi-line /'
fi
say end
