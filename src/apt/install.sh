# Repository and packages, by the container's own apt.
# $1 ask or install; $2 the partial mirror shown inside, or - for the container's own sources and
# the network; $3 sha1 where a key that SHA-1 binds is to be accepted, or -; $4 pins path, $5 pins
# text; $6 key path, $7 key text, $8 sources path, $9 sources text, empty where they are not
# wanted; ${10} patterns of packages that must not come in, ${11} exceptions to them; ${12} lines of
# files in the mirror that the host has read in this run: SHA-256, size, mtime, ctime, path; ${13} packages
# that a run which was cut short has left, and that come along with others; then the packages, with a mirror as NAME=VERSION
what=$1 mirror=$2 policy=$3
pins=$4 pins_text=$5 key=$6 key_text=$7 sources=$8 sources_text=$9
denied=${10} allowed=${11} read=${12} unfinished=${13}
shift 13
work=/run/nvstage-apt

put() { # put PATH TEXT: replaced in one step, and only if it differs
  if [ ! -f "$1" ] || [ "$(cat "$1"; echo .)" != "$2
." ]; then
    mkdir -p "${1%/*}" && printf '%s\n' "$2" >"$1.nvstage" && mv -f "$1.nvstage" "$1" || {
      say failed "write $1"
      exit 1
    }
  fi
}
put_all() { # the pins first: from the moment the repository is known, no driver may come from it
  put "$pins" "$pins_text"
  if [ -n "$sources" ]; then
    put "$key" "$key_text"
    put "$sources" "$sources_text"
  fi
}
# What apt starts does not keep the lock.
take_turn 900
wait_until_up 60
settle_dpkg 300
# apt marks what it is about to remove (dpkg `--set-selections`); after a removal that was cut short the
# mark would have it removed later.
for package in $unfinished; do
  case $(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null) in [pr][!nc]*) echo "$package install" ;; esac
done | dpkg --set-selections 9>&-

# An empty place for packages: apt takes one that lies in its own by its size alone.
archives=$work/archives
[ "$mirror" != - ] || archives=/var/cache/nvstage-apt
trap 'rm -rf "$work" "$archives"' EXIT
trap 'exit 143' HUP INT TERM
rm -rf "$work" "$archives" && mkdir -p "$work/lists/partial" "$archives/partial" || {
  say failed "make $work and $archives"
  exit 1
}
apt_get() { apt-get -q -o DPkg::Lock::Timeout=300 -o APT::Update::Error-Mode=any \
  -o Dir::Cache::archives="$archives" -o Acquire::ForceHash=SHA256 \
  -o APT::Get::AllowUnauthenticated=false -o Acquire::AllowInsecureRepositories=false "$@" 9>&-; }
if [ "$mirror" = - ]; then
  put_all
  apt() { apt_get -o Acquire::Retries=3 "$@"; }
else
  if [ "$policy" = sha1 ]; then
    SEQUOIA_CRYPTO_POLICY=$mirror/sequoia.toml
    export SEQUOIA_CRYPTO_POLICY
  fi
  # Our sources and preferences alone, their indexes in a place of their own: those of the
  # container stay as they are, and an old list in it cannot be taken for a newer one.
  apt() { apt_get -o Dir::Etc::sourcelist="$mirror/sources.list" -o Dir::Etc::sourceparts=/dev/null \
    -o Dir::Etc::preferences="$mirror/preferences" -o Dir::Etc::preferencesparts=/dev/null \
    -o Dir::State::lists="$work/lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= \
    -o Acquire::GzipIndexes=true -o Acquire::Languages=none -o APT::Default-Release= \
    -o APT::Get::Always-Include-Phased-Updates=true "$@"; }
fi
install_now() { apt -y --no-install-recommends --no-remove -o APT::Keep-Downloaded-Packages=false \
  -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold install "$@" </dev/null; }

# The driver's library, before and after: no package may take its place.
cuda_library() { ldconfig -p 2>/dev/null | sed -n 's/^[[:space:]]*libcuda\.so\.1 .* => //p' | head -n 1 | xargs -r readlink -f; }
library=$(cuda_library)
# An installer that was cut short may have written every file, and not told the linker.
if [ -z "$library" ] && [ "$what" = install ]; then
  ldconfig 2>/dev/null
  library=$(cuda_library)
fi

# DPkg::Lock::Timeout is not for the lock on the lists, which the daily update holds after a boot.
waited=0
until output=$(apt update </dev/null 2>&1); do
  case $output in
    *'Could not get lock'*) [ "$waited" -lt 300 ] && sleep 5 && waited=$((waited + 5)) && continue ;;
  esac
  printf '%s\n' "$output"
  say failed "apt-get update"
  exit 1
done
printf '%s\n' "$output"

# What is newer inside than in the lock stays as it is.
for package; do
  shift
  found=$(dpkg-query -W -f '${Version}' "${package%%=*}" 2>/dev/null)
  case $package in
    *=*) [ -z "$found" ] || ! dpkg --compare-versions "$found" gt "${package#*=}" || package=${package%%=*} ;;
  esac
  set -- "$@" "$package"
done

# refuse ARGUMENT…: ends everything where apt, told so, would do what must not be.
refuse() {
  simulated=$(apt -s --no-install-recommends install "$@" </dev/null 2>&1) || {
    printf '%s\n' "$simulated"
    say failed "apt-get --simulate install"
    exit 1
  }
  refused=$(printf '%s\n' "$simulated" | while read -r verb name rest; do
    case $verb in
      Remv) echo "removes $name" ;;
      Inst)
        set -f
        bad=
        for pattern in $denied; do case ${name%%:*} in $pattern) bad=yes ;; esac; done
        for pattern in $allowed; do case ${name%%:*} in $pattern) bad= ;; esac; done
        [ -n "$bad" ] && echo "brings in $name"
        set +f ;;
    esac
  done)
  if [ -n "$refused" ]; then
    printf '%s\n' "$refused" | sed 's/^/@nvstage refused /'
    exit 1
  fi
}
# compare ARGUMENT…: what apt, told so, would fetch, each file by its digest; a mirror must have it.
compare() {
  uris=$(apt -y --print-uris --no-remove --no-install-recommends install "$@" </dev/null 2>&1) || {
    printf '%s\n' "$uris"
    say failed "apt-get --print-uris install"
    exit 1
  }
  [ "$mirror" != - ] || return 0
  missing=$(printf '%s\n' "$uris" | sed -n "s/^'.*' \([^ ]*\) [0-9]*/\1/p" |
    while read -r file digest; do
      [ -n "$digest" ] && grep -qxF -e "$digest" "$mirror/packages" || echo "$file"
    done)
  if [ -n "$missing" ]; then
    printf '%s\n' "$missing" | sed 's/^/@nvstage missing /'
    exit 1
  fi
}

# adopt: what was compared last, and is in the mirror as the host has read it, becomes apt's own: apt
# takes that by its size. Everything else it reads and hashes, three times over, once more.
adopt() {
  [ -n "$read" ] || return 0
  # The clock of its file system tells of any change since.
  {
    (cd "$mirror" && printf '%s\n' "$read" | sed -n 's/.* //p' | xargs stat -c 'now %s %.9Y %.9Z %n') 2>/dev/null
    printf '%s\n' "$read" | sed 's/^/read /'
    printf '%s\n' "$uris" | sed -n "s/^'.*' \([^ ]*\) [0-9]* SHA256:\([0-9a-f]*\)\$/wanted \2 \1/p"
  } | awk '
    $1 == "now" { same[$2, $3, $4, $5] }
    $1 == "read" && ($3, $4, $5, $6) in same { path[$2] = $6 }
    $1 == "wanted" && $2 in path { print path[$2], $3 }' |
    while read -r path file; do ln -s "$mirror/$path" "$archives/$file"; done
}

# A dpkg that was cut short between two packages leaves one without what it depends on, and apt
# answers nothing else before that is mended.
if ! output=$(apt check </dev/null 2>&1); then
  case $output in
    *'nmet dependencies'*) ;;
    *)
      printf '%s\n' "$output"
      say failed "apt-get check"
      exit 1 ;;
  esac
  refuse --fix-broken
  compare --fix-broken
  put_all
  adopt
  install_now --fix-broken
fi
refuse "$@"
compare "$@"
if [ "$what" = ask ]; then
  # An upgrade has the old version in brackets.
  printf '%s\n' "$simulated" | sed -n 's/^Inst \([^ ]*\) (.*/@nvstage new \1/p'
  say done
  exit 0
fi

put_all
adopt
# Where apt fails and a repository has another release by now, its index was out of date.
releases() { cat /var/lib/apt/lists/*InRelease 2>/dev/null | sha256sum; }
before=$(releases)
left=2
until install_now "$@"; do
  [ "$mirror" = - ] && [ "$left" -gt 0 ] && sleep 1 && apt update </dev/null && [ "$(releases)" != "$before" ] || {
    say failed "apt-get install"
    exit 1
  }
  before=$(releases) left=$((left - 1))
  refuse "$@"
done
# A removal forgets that they came because others need them.
automatic=$(for package in $unfinished; do
  case $(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null) in ?i*) echo "$package" ;; esac
done)
[ -z "$automatic" ] || apt-mark auto $automatic 9>&- || { say failed "apt-mark auto"; exit 1; }
if is_dpkg_unfinished; then
  dpkg --audit
  say failed "dpkg --audit"
  exit 1
fi
for package; do
  case $package in
    *=*)
      found=$(dpkg-query -W -f '${Version}' "${package%%=*}")
      [ "$found" = "${package#*=}" ] || {
        say failed "check of ${package%%=*}: $found is installed, not ${package#*=}"
        exit 1
      } ;;
  esac
done
if [ "$(cuda_library)" != "$library" ]; then
  say failed "check of libcuda.so.1: a package replaced $library"
  exit 1
fi
say done
