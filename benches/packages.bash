# packages.bash: the groups `packages`, `verify`, `bundle` and `offline` (sourced by `run`): CUDA's packages into the cache,
# the cache checked and carried elsewhere, and packages from it into containers.
# shellcheck shell=bash disable=SC2154

# ---- packages

measure_packages() {
    local round
    for round in $(seq "$downloads"); do
        say "packages, round $round of $downloads"
        packages_by_nvstage
        packages_by_commands curl
        packages_by_commands curl-parallel --parallel
    done
}

# The installer and the key are there before.
packages_by_nvstage() {
    rm -rf "$cache"
    nvstage prefetch --recipe "$recipe" --for debian12 > "$directory/output"
    reference_container
    timed packages-prefetch nvstage prefetch --recipe "$recipe" --for "$reference"
    item_seconds packages 'packages for'
}

# reference_container: a running container to resolve for, made once.
reference_container() {
    if [ "$reference" = none ]; then
        fresh_container
        reference=$ctid ctid=none
    fi
}

# packages_by_commands NAME [OPTION…]: the same files by one curl with these options, and their digests.
packages_by_commands() {
    list_packages
    rm -rf "$directory/plain"
    mkdir "$directory/plain"
    timed "packages-$1" curl -fsS "${@:2}" --create-dirs --output-dir "$directory/plain" --config "$directory/curl.config"
    timed "packages-$1-sha256sum" env -C "$directory/plain" sha256sum --quiet -c "$directory/packages.sha256"
    sum "packages-$1+sha256sum" "packages-$1" "packages-$1-sha256sum"
    rm -rf "$directory/plain"
}

# list_packages: the files of the repositories that `prefetch` took: InRelease, Packages.gz, and the .debs.
list_packages() {
    local mirror=("$cache"/apt-v1/[0-9a-f]*) names=$directory/packages
    (cd "${mirror[0]}" && find cuda distribution-1 -type f) > "$names"
    (cd "${mirror[0]}" && xargs sha256sum) < "$names" > "$names.sha256"
    sed -E "h; s|^|output = \"|; s|\$|\"|; x; s|^cuda/|cuda-real/|; s|^distribution-1/|distribution/|
        s|.*|url = \"$site/&\"|; G" "$names" > "$directory/curl.config"
    sample packages-count "$(grep -c '\.deb$' "$names")"
    sample packages-bytes "$(cd "${mirror[0]}" && xargs du -bc < "$names" | tail -1 | cut -f1)"
}

# ---- verify

# fill_cache: the cache has installer, key and packages.
fill_cache() {
    reference_container
    if [ -z "$(compgen -G "$cache/apt-v1/[0-9a-f]*")" ]; then
        rm -rf "$cache"
        nvstage prefetch --recipe "$recipe" --for "$reference" > "$directory/output"
    fi
}

measure_verify() {
    local round
    fill_cache
    sample cache-bytes "$(cd "$cache" && du -sbc blobs-v1 trees-v1 | tail -1 | cut -f1)"
    for round in $(seq "$downloads"); do
        say "verify, round $round of $downloads"
        timed verify nvstage 'cache verify'
        timed verify-sha256sum hash_files
    done
}

# hash_files: blobs, and the files of the unpacked installer; a repository in the cache is links to blobs.
hash_files() { (cd "$cache" && find blobs-v1 trees-v1 -type f -print0 | xargs -0 -P "$(nproc)" -n 4 sha256sum); }

# ---- bundle

measure_bundle() {
    local round
    fill_cache
    (cd "$cache" && find blobs-v1 -type f -printf '%f  %p\n' | sort) > "$directory/blobs.sha256"
    for round in $(seq "$rounds"); do
        say "bundle, round $round of $rounds"
        rm -rf "$directory"/carried.*
        timed bundle-export synced nvstage 'bundle export' "$directory/carried.bundle"
        timed bundle-tar synced pack
        sample bundle-bytes "$(stat -c%s "$directory/carried.bundle")"
        sample bundle-tar-bytes "$(stat -c%s "$directory/carried.tar.zst")"
        bundle_import
        rm -rf "$directory/plain"
        mkdir "$directory/plain"
        timed bundle-untar synced unpack
        timed bundle-sha256sum env -C "$directory/plain" sha256sum --quiet -c "$directory/blobs.sha256"
        sum bundle-untar+sha256sum bundle-untar bundle-sha256sum
        rm -rf "$directory/plain"
    done
    rm -rf "$directory"/carried.*
}

pack() { tar -C "$cache" -cf - blobs-v1 locks-v1 | zstd -q -T0 -o "$directory/carried.tar.zst"; }

unpack() { zstd -qdc "$directory/carried.tar.zst" | tar -C "$directory/plain" -xf -; }

# bundle_import: into an empty cache, which is as good as the first one then.
bundle_import() {
    local cache=$directory/imported
    rm -rf "$cache"
    timed bundle-import synced nvstage 'bundle import' "$directory/carried.bundle" --recipe "$recipe"
    (cd "$cache" && find blobs-v1 -type f -printf '%f  %p\n' | sort) | cmp - "$directory/blobs.sha256"
    rm -rf "$cache"
}

# ---- offline

measure_offline() {
    local round
    fill_cache
    for round in $(seq "$rounds"); do
        say "offline, round $round of $rounds"
        offline_by_nvstage
        online_by_apt
    done
}

# container_with_driver: what both begin with.
container_with_driver() {
    fresh_container
    nvstage provision --recipe "$directory/bench-driver.toml" "$ctid" --gpus 0 > "$directory/output"
    calls
}

# The server and the bridge are up all the time: nothing but its own will keeps the program from the network.
offline_by_nvstage() {
    local init before
    container_with_driver
    init=$(lxc-info -n "$ctid" -pH)
    before=("$(octets self "$init")" "$(opened self "$init")" "$(kept)" "$(wc -l < "/proc/$init/mountinfo")")
    timed offline nvstage provision --recipe "$recipe" "$ctid" --gpus 0 --offline
    perl -MJSON::PP -e 'local $/; print map { "$_->{seconds}\n" } grep { $_->{step} eq "packages" }
        @{ decode_json(<STDIN>)->{containers}[0]{steps} }' < "$directory/output" >> "$directory/samples/offline-apt"
    calls offline-calls
    sample offline-octets $(($(octets self "$init") - before[0]))
    sample offline-opened $(($(opened self "$init") - before[1]))
    sample offline-kept $(($(kept) - before[2]))
    sample offline-archives "$(find "/proc/$init/root/var/cache/apt/archives" -name '*.deb' | wc -l)"
    sample offline-lists "$(find "/proc/$init/root"/{var/lib/apt/lists,run} -name '*Packages*' -o -name '*Release*' | wc -l)"
    sample offline-mounts $(($(wc -l < "/proc/$init/mountinfo") - before[3]))
    works_inside
    remove_container
}

online_by_apt() {
    local init before
    container_with_driver
    init=$(lxc-info -n "$ctid" -pH)
    cp "$NVSTAGE_WORLD/cuda-real/$key" "/proc/$init/root/usr/share/keyrings/cuda.asc"
    echo "deb [signed-by=/usr/share/keyrings/cuda.asc] $site/cuda-real/ /" > "/proc/$init/root/etc/apt/sources.list.d/cuda.list"
    before=("$(octets "$init")" "$(opened "$init")" "$(kept)")
    # What it takes to look at the archives before they go is some milliseconds.
    timed online pct exec "$ctid" -- sh -ec 'export DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin
        apt-get update
        apt-get -y --no-install-recommends install cuda-toolkit-12-8 nvtop
        du -sk /var/cache/apt/archives | sed "s/^/archives: /"
        ls /var/cache/apt/archives/*.deb | wc -l | sed "s/^/archives: /"
        apt-get clean'
    calls online-calls
    sample online-octets $(($(octets "$init") - before[0]))
    sample online-opened $(($(opened "$init") - before[1]))
    sample online-kept $(($(kept) - before[2]))
    sample online-archives-bytes "$(awk '/^archives: .*\// { print $2 * 1024 }' "$directory/output")"
    sum online-kept-unclean online-kept online-archives-bytes
    sample online-archives "$(awk '/^archives: [0-9]+$/ { print $2 }' "$directory/output")"
    sample online-lists "$(find "/proc/$init/root/var/lib/apt/lists" -name '*Packages*' -o -name '*Release*' | wc -l)"
    works_inside
    remove_container
}

# octets PROCESS…: the bytes of IPv4 that went into and out of their network namespaces, the host's own loopback included.
# What is beneath and beside (ARP, IPv6's looking for neighbours) is the kernels' own talk, and is left out.
octets() {
    local process
    for process; do cat "/proc/$process/net/netstat"; done |
        awk '$1 == "IpExt:" && $2 ~ /^[0-9]+$/ { total += $8 + $9 } END { printf "%.0f\n", total }'
}

# opened PROCESS…: the connections that were opened (TCP) and the datagrams that were sent (UDP) in their network namespaces,
# over IPv4 and IPv6.
opened() {
    local process
    for process; do cat "/proc/$process/net/snmp" "/proc/$process/net/snmp6"; done |
        awk '$1 == "Tcp:" && $2 ~ /^[0-9]+$/ { total += $6 } $1 == "Udp:" && $2 ~ /^[0-9]+$/ { total += $5 }
            $1 == "Udp6OutDatagrams" { total += $2 } END { printf "%.0f\n", total }'
}

# kept: the bytes on disk that are the container's own.
kept() { echo $(($(du -skx "$directory/containers/$ctid/upper" | cut -f1) * 1024)); }
