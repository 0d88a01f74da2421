# building.bash: what `prepare`, `prepare-large`, `package`, `reindex` and `resign` share (sourced, not run): the place of
# the built world, parts that are built once, Debian's sources as this machine knows them, small .deb packages and signed
# flat repositories.
# shellcheck shell=bash

: "${NVSTAGE_WORLD:=/var/tmp/nvstage-world}"
export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive
umask 022

# The suite of this machine, and of the containers that say nothing else.
own_suite=$(. /etc/os-release && echo "$VERSION_CODENAME")

say() { printf 'world: %s\n' "$*"; }

# open_world: creates the place and keeps every other builder out until this process ends.
open_world() {
    [ "$(id -u)" = 0 ] || { say 'must be root' >&2; exit 1; }
    mkdir -p "$NVSTAGE_WORLD/.built" "$NVSTAGE_WORLD/installer"
    exec 9>"$NVSTAGE_WORLD/.lock"
    flock -n 9 || { say 'another builder is at work, waiting'; flock 9; }
}

# next_version VERSION: the version of a driver that would follow.
next_version() { printf '%s.%02d\n' "${1%.*}" "$((10#${1##*.} + 1))"; }

# need_packages NAME…: installs those of Debian's packages that are missing.
need_packages() {
    local missing
    missing=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>&1 | sed -n 's/^not-installed //p; s/.*no packages found matching //p' || true)
    [ -n "$missing" ] || return 0
    say "installing ${missing//$'\n'/ }"
    # shellcheck disable=SC2086
    apt-get install -qq -y --no-install-recommends $missing >/dev/null 2>&1 9>&- && return
    apt-get update -qq 9>&-
    # shellcheck disable=SC2086
    apt-get install -qq -y --no-install-recommends $missing >/dev/null 9>&-
}

# part NAME INGREDIENTS FUNCTION ARGUMENT…: runs `FUNCTION NEW-PATH ARGUMENT…` and renames NEW-PATH to
# $NVSTAGE_WORLD/NAME, unless that was built before from the same function, arguments and ingredients. INGREDIENTS are
# files, functions, and names of other parts, separated by blanks.
part() {
    local name=$1 ingredients=$2 function=$3 key ingredient new=$NVSTAGE_WORLD/$1.new
    local stamp=$NVSTAGE_WORLD/.built/${name//\//_}
    shift 3
    key=$({
        declare -f "$function"; printf '%s\n' "$@"
        for ingredient in $ingredients; do
            if [ -e "$ingredient" ]; then cat "$ingredient"
            elif declare -F "$ingredient" >/dev/null; then declare -f "$ingredient"
            else cat "$NVSTAGE_WORLD/.built/${ingredient//\//_}"; fi
        done
    } | sha256sum | cut -c1-64)
    if [ -e "$NVSTAGE_WORLD/$name" ] && [ "$(cat "$stamp" 2>/dev/null || true)" = "$key" ]; then return 0; fi
    say "building $name"
    rm -rf --one-file-system "$new" "$stamp"
    "$function" "$new" "$@" 9>&-
    rm -rf --one-file-system "${NVSTAGE_WORLD:?}/$name"
    mv -T "$new" "$NVSTAGE_WORLD/$name"
    printf '%s\n' "$key" > "$stamp"
}

# debian_sources SUITE COMPONENTS: this machine's own Debian sources, with these components and the names of that suite in
# the place of its own, in the one-line form. Codenames: what is `stable` here may be another suite than the wanted one.
debian_sources() {
    local targets
    # shellcheck disable=SC2016
    targets() { apt-get indextargets --format '$(ORIGIN) $(REPO_URI) $(CODENAME)' 'Created-By: Packages' | sed -n 's/^Debian //p' | sort -u; }
    targets=$(targets)
    if [ -z "$targets" ]; then apt-get update -qq >&2; targets=$(targets); fi
    sed "s|^|deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] |; s| $own_suite| $1|; s|\$| $2|" <<<"$targets"
}

# isolated_apt DIRECTORY STATUS SUITE COMPONENTS: an apt of its own, untouched by this machine's configuration, that takes
# STATUS for what is installed; use it with APT_CONFIG=DIRECTORY/apt.conf.
isolated_apt() {
    local directory=$1
    mkdir -p "$directory"/etc/apt/{sources.list.d,preferences.d,apt.conf.d,trusted.gpg.d} \
        "$directory"/var/{lib/apt/lists/partial,cache/apt/archives/partial,lib/dpkg} "$directory/log"
    cp "$2" "$directory/var/lib/dpkg/status"
    debian_sources "$3" "$4" > "$directory/etc/apt/sources.list"
    cat > "$directory/apt.conf" <<END
Dir "$directory/";
Dir::State "var/lib/apt/";
Dir::State::status "$directory/var/lib/dpkg/status";
Dir::Cache "var/cache/apt/";
Dir::Etc "etc/apt/";
Dir::Log "$directory/log";
APT::Architecture "amd64";
APT::Architectures { "amd64"; };
APT::Install-Recommends "false";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
APT::Sandbox::User "root";
END
    APT_CONFIG=$directory/apt.conf apt-get update -qq
}

# signing_key NEW-PATH NAME [OPTION…]: a directory with a gpg home that holds one fresh key, made with gpg's OPTIONs,
# `public.asc` and `fingerprint`.
signing_key() {
    local new=$1 name=$2 home
    shift 2
    home=$(mktemp -d /tmp/world-gpg.XXXXXX)
    gpg_in "$home" "$@" --passphrase '' --quick-gen-key "$name <$name@world.invalid>" rsa3072 sign never
    mkdir -m 0700 "$new"
    gpg_in "$home" --armor --export > "$new/public.asc"
    gpg_in "$home" --with-colons --fingerprint | sed -n 's/^fpr:*\([0-9A-F]*\):$/\1/p' > "$new/fingerprint"
    end_gpg_in "$home"
    rm -f "$home"/S.*
    mv "$home" "$new/home"
}

# gpg_in HOME ARGUMENT…: gpg on that home, whose path must be short: the agent's sockets lie there.
gpg_in() {
    GNUPGHOME=$1 gpg --batch --quiet --yes --no-permission-warning "${@:2}" 2> >(grep -v '^gpg: \(key\|revocation\|directory\|.*trustdb\|/tmp\)' >&2)
}

end_gpg_in() { GNUPGHOME=$1 gpgconf --kill gpg-agent; }

# index_repository DIRECTORY: the index of the .deb files in DIRECTORY.
index_repository() {
    (
        cd "$1" || exit
        dpkg-scanpackages -m . 2>/dev/null > Packages
        gzip -9nkf Packages
    )
}

# sign_repository DIRECTORY KEY [--date DATE] [--valid-until DATE] [--digest-algo ALGO] [--] FIELD…: Release and signatures
# for the index in DIRECTORY; the FIELDs open the Release file. The key's home is copied, so that any number of these may
# sign with one key at once, each with an agent of its own.
sign_repository() {
    local directory=$1 key=$2 date=now valid_until='' digest_algo='' field name home status=0
    shift 2
    while [ $# -gt 0 ]; do
        case $1 in
            --date) date=$2 ;;
            --valid-until) valid_until=$2 ;;
            --digest-algo) digest_algo=$2 ;;
            --) shift; break ;;
            -*) say "unknown option: $1" >&2; return 2 ;;
            *) break ;;
        esac
        shift 2
    done
    date=$(date -R -u -d "$date") || return
    [ -z "$valid_until" ] || valid_until=$(date -R -u -d "$valid_until") || return
    {
        printf '%s\n' "$@" "Date: $date"
        [ -z "$valid_until" ] || echo "Valid-Until: $valid_until"
        for field in MD5Sum:md5sum SHA1:sha1sum SHA256:sha256sum; do
            echo "${field%%:*}:"
            for name in Packages Packages.gz; do
                printf ' %s %s %s\n' "$("${field##*:}" < "$directory/$name" | cut -d' ' -f1)" "$(stat -c%s "$directory/$name")" "$name"
            done
        done
        echo 'Acquire-By-Hash: no'
    } > "$directory/Release"
    home=$(mktemp -d /tmp/world-gpg.XXXXXX)
    cp -r "$key/home/." "$home"
    {
        gpg_in "$home" --armor --detach-sign --digest-algo "${digest_algo:-SHA512}" -o "$directory/Release.gpg" "$directory/Release" &&
            gpg_in "$home" --clearsign --digest-algo "${digest_algo:-SHA256}" -o "$directory/InRelease" "$directory/Release"
    } || status=$?
    end_gpg_in "$home"
    rm -rf "$home"
    return "$status"
}

# head_of_release DIRECTORY: the fields that opened the Release file there, as sign_repository takes them.
head_of_release() { sed '/^Date:/,$d' "$1/Release"; }

# flat_repository DIRECTORY KEY FIELD…: index and signatures for the .deb files in DIRECTORY, of the form that NVIDIA's
# repository has; the FIELDs open the Release file.
flat_repository() {
    index_repository "$1"
    sign_repository "$@"
}

# deb DIRECTORY NAME VERSION DEPENDS [FILES [COMPRESSION]]: a package without content, or with the tree FILES (whose
# DEBIAN directory, if any, is kept), written into DIRECTORY.
deb() {
    local tree=${5:-} depends=$4
    if [ -z "$tree" ]; then tree=$(mktemp -d); fi
    chmod 0755 "$tree"
    mkdir -p "$tree/DEBIAN" "$tree/usr/share/doc/$2"
    echo "Stand-in for $2; made for tests." > "$tree/usr/share/doc/$2/README"
    {
        printf 'Package: %s\nVersion: %s\nArchitecture: amd64\nMaintainer: nvstage tests <tests@world.invalid>\nSection: misc\nPriority: optional\n' "$2" "$3"
        [ -z "$depends" ] || printf 'Depends: %s\n' "$depends"
        printf 'Installed-Size: %s\nDescription: stand-in for %s\n' "$(du -sk "$tree" | cut -f1)" "$2"
    } > "$tree/DEBIAN/control"
    dpkg-deb --root-owner-group -Z"${6:-gzip}" -z1 --build "$tree" "$1/$2_${3}_amd64.deb" >/dev/null
    rm -rf "$tree"
}

# sign_as_cuda DIRECTORY KEY [NAMED]: index and signatures, and the key under the name that NVIDIA would give to NAMED
# (default: KEY).
sign_as_cuda() {
    flat_repository "$1" "$2" 'Origin: NVIDIA' 'Label: NVIDIA CUDA' 'Architecture: x86_64'
    local fingerprint
    fingerprint=$(cat "${3:-$2}/fingerprint")
    cp "$2/public.asc" "$1/${fingerprint: -8}.pub"
    cp "$2/fingerprint" "$1/fingerprint"
}

# What goes into every repository, for the ingredients of a part.
# shellcheck disable=SC2034
repository_code='flat_repository index_repository sign_repository gpg_in end_gpg_in'
