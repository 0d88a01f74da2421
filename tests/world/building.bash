# building.bash: what `prepare` and `prepare-large` share (sourced, not run): the place of the built world, parts that
# are built once, Debian's sources as this machine knows them, small .deb packages and signed flat repositories.
# shellcheck shell=bash

: "${NVSTAGE_WORLD:=/var/tmp/nvstage-world}"
export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive
umask 022

say() { printf 'world: %s\n' "$*"; }

# open_world: creates the place and keeps every other builder out until this process ends.
open_world() {
    [ "$(id -u)" = 0 ] || { say 'must be root' >&2; exit 1; }
    mkdir -p "$NVSTAGE_WORLD/.built" "$NVSTAGE_WORLD/installer"
    exec 9>"$NVSTAGE_WORLD/.lock"
    flock -n 9 || { say 'another builder is at work, waiting'; flock 9; }
}

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

# debian_sources COMPONENTS: this machine's own Debian sources, with these components, in the one-line form.
debian_sources() {
    local targets
    # shellcheck disable=SC2016
    targets() { apt-get indextargets --format '$(ORIGIN) $(REPO_URI) $(RELEASE)' 'Created-By: Packages' | sed -n 's/^Debian //p' | sort -u; }
    targets=$(targets)
    if [ -z "$targets" ]; then apt-get update -qq >&2; targets=$(targets); fi
    sed "s|^|deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] |; s|\$| $1|" <<<"$targets"
}

# isolated_apt DIRECTORY STATUS COMPONENTS: an apt of its own, untouched by this machine's configuration, that takes
# STATUS for what is installed; use it with APT_CONFIG=DIRECTORY/apt.conf.
isolated_apt() {
    local directory=$1
    mkdir -p "$directory"/etc/apt/{sources.list.d,preferences.d,apt.conf.d,trusted.gpg.d} \
        "$directory"/var/{lib/apt/lists/partial,cache/apt/archives/partial,lib/dpkg} "$directory/log"
    cp "$2" "$directory/var/lib/dpkg/status"
    debian_sources "$3" > "$directory/etc/apt/sources.list"
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

# signing_key NEW-PATH NAME: a directory with a gpg home that holds one fresh key, `public.asc` and `fingerprint`.
signing_key() {
    mkdir -m 0700 "$1"
    local home=$1/home
    mkdir -m 0700 "$home"
    gpg_in "$home" --passphrase '' --quick-gen-key "$2 <$2@world.invalid>" rsa3072 sign never
    gpg_in "$home" --armor --export > "$1/public.asc"
    gpg_in "$home" --with-colons --fingerprint | sed -n 's/^fpr:*\([0-9A-F]*\):$/\1/p' > "$1/fingerprint"
    rm -f "$home"/S.*
}

# gpg_in HOME ARGUMENT…: gpg on that home; the agent's sockets need a short path, so the home is reached through /tmp.
gpg_in() {
    local link status=0
    link=$(mktemp -u /tmp/world-gpg.XXXXXX)
    ln -s "$1" "$link"
    GNUPGHOME=$link gpg --batch --quiet --yes --no-permission-warning "${@:2}" 2> >(grep -v '^gpg: \(key\|revocation\|directory\|.*trustdb\|/tmp\)' >&2) || status=$?
    GNUPGHOME=$link gpgconf --kill gpg-agent
    rm -f "$link"
    return "$status"
}

# flat_repository DIRECTORY KEY FIELD…: index and signatures for the .deb files in DIRECTORY, of the form that NVIDIA's
# repository has; the FIELDs open the Release file.
flat_repository() {
    local directory=$1 key=$2 field name
    shift 2
    cd "$directory" || return
    dpkg-scanpackages -m . 2>/dev/null > Packages
    gzip -9nk Packages
    {
        printf '%s\n' "$@" "Date: $(date -R -u)"
        for field in MD5Sum:md5sum SHA1:sha1sum SHA256:sha256sum; do
            echo "${field%%:*}:"
            for name in Packages Packages.gz; do
                printf ' %s %s %s\n' "$("${field##*:}" "$name" | cut -d' ' -f1)" "$(stat -c%s "$name")" "$name"
            done
        done
        echo 'Acquire-By-Hash: no'
    } > Release
    gpg_in "$key/home" --armor --detach-sign --digest-algo SHA512 -o Release.gpg Release
    gpg_in "$key/home" --clearsign --digest-algo SHA256 -o InRelease Release
    cd "$OLDPWD" || return
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

# sign_as_cuda DIRECTORY KEY: index and signatures, and the key under the name that NVIDIA would give it.
sign_as_cuda() {
    flat_repository "$1" "$2" 'Origin: NVIDIA' 'Label: NVIDIA CUDA' 'Architecture: x86_64'
    local fingerprint
    fingerprint=$(cat "$NVSTAGE_WORLD/keys/cuda/fingerprint")
    cp "$2/public.asc" "$1/${fingerprint: -8}.pub"
    cp "$2/fingerprint" "$1/fingerprint"
}
