# fleet.bash: the groups `fleet`, `shared`, `growth` and `upgrade` (sourced by `run`): many containers at once.
# shellcheck shell=bash disable=SC2154

# How many containers nvstage works on at once by itself, and what is measured beside it as well.
jobs=$((2 * $(nproc)))

# ---- fleets

# each FUNCTION CTID…: the function for each, $jobs of them at a time.
each() {
    local function=$1 one working=0
    shift
    for one; do
        if [ "$working" -ge "$jobs" ]; then wait -n; else working=$((working + 1)); fi
        "$function" "$one" &
    done
    for _ in $(seq "$working"); do wait -n; done
}

# fresh_fleet NUMBER [LINE]: $fleet becomes that many running privileged containers, with that line in their configurations.
# What it takes is not measured: pct costs nothing here.
fresh_fleet() {
    local one
    rm -f /run/pct-front/cost
    for _ in $(seq "$1"); do fleet+=($((next_container++))); done
    for one in "${fleet[@]}"; do
        "$world/new-container" "$directory" "$one" privileged "distribution-url=$site/distribution/"
        printf '%s' "${2:+$2$'\n'}" >> "/etc/pve/lxc/$one.conf"
    done
    each start_one "${fleet[@]}"
    begin_fleet
}

begin_fleet() {
    touch /run/pct-front/cost
    calls
    sent
}

start_one() {
    pct start "$1" > /dev/null
    until lxc-attach -n "$1" --clear-env -- systemctl is-system-running 2>&1 | grep -qE 'running|degraded'; do sleep 0.1; done
}

# cloned_fleet NUMBER: the same with the driver and the packages: linked clones of one that was provisioned.
cloned_fleet() {
    fresh_fleet 1
    base=${fleet[0]} fleet=()
    nvstage provision --recipe "$recipe" "$base" --gpus 0 > "$directory/output"
    rm -f /run/pct-front/cost
    pct shutdown "$base" > /dev/null
    pct template "$base"
    for _ in $(seq "$1"); do
        fleet+=($((next_container++)))
        pct clone "$base" "${fleet[-1]}" > /dev/null
        # A clone has its source's address too.
        pct set "${fleet[-1]}" --delete net0
    done
    each start_one "${fleet[@]}"
    begin_fleet
}

remove_fleet() {
    each remove_one "${fleet[@]}"
    fleet=()
}

remove_one() {
    lxc-stop -k -n "$1"
    umount "/var/lib/lxc/.storage/subvol-$1-disk-0"
    rm -rf "$directory/containers/$1" "/etc/pve/lxc/$1.conf"
}

remove_base() {
    umount "/var/lib/lxc/.storage/basevol-$base-disk-0"
    rm -rf "$directory/containers/$base" "/etc/pve/lxc/$base.conf"
    base=none
}

# provision_fleet NAME RECIPE OPTION…: $fleet by one command. Calls of pct and own processor time are those of one container.
provision_fleet() {
    timed "$1" nvstage provision --recipe "$directory/$2.toml" --gpus 0 --jobs "$jobs" "${@:3}" "${fleet[@]}"
    calls "$1-calls"
    each_of "$1-calls" "${#fleet[@]}"
    own "$1" provision
}

# own NAME VERB: the own processor time of the latest run of the verb, for one container of $fleet.
own() {
    sample "$1-own" "$(tail -n 1 "$directory/samples/own-$2")"
    each_of "$1-own" "${#fleet[@]}"
    sample "$1-memory" "$(tail -n 1 "$directory/samples/memory-$2")"
}

# each_of NAME NUMBER: the latest sample becomes what falls to one of so many.
each_of() {
    local file=$directory/samples/$1 last
    last=$(tail -n 1 "$file" | awk -v number="$2" '{ printf "%.12g", $1 / number }')
    sed -i "\$ s/.*/$last/" "$file"
}

# fleet_has TEST: a shell test that must succeed in every container of $fleet.
fleet_has() {
    for ctid in "${fleet[@]}"; do inside "$1"; done
    ctid=none
}

# The driver's libraries as programs find them, and nodes that open.
has_driver="exec 3<>/dev/nvidia0; readlink -f \"\$(ldconfig -p | sed -n 's/.*libcuda.so.1 (libc6,x86-64.*=> //p')\" | grep '\\.so\\.$version\$'"
has_compiler='/usr/local/cuda-12.8/bin/nvcc --version | grep V12.8; /usr/local/cuda-12.8/bin/ptxas --version | grep V12.8'

# ---- fleet: eight containers, from nothing

measure_fleet() {
    local round
    baseline
    fleet_from_nothing
    # In turns: machines that share their cores with others are not equally fast all the time.
    say 'fleet, the copied sequence'
    container_by_seed
    say 'fleet, dpkg alone'
    floor
    container_by_seed
    for round in $(seq "$fleets"); do
        say "fleet, round $round of $fleets"
        fresh_fleet 8
        provision_fleet fleet-driver bench-driver
        fleet_has "$has_driver"
        remove_fleet
    done
}

# baseline: what the copied sequence takes for one container, and for the driver's part of it; it is not measured again where
# another group has done so.
baseline() {
    local round number=$rounds
    [ ! -e "$directory/samples/container-seed" ] || number=0
    for round in $(seq "$number"); do
        say "the copied sequence, round $round of $rounds"
        container_by_seed
    done
    [ ! -e "$directory/samples/driver-seed" ] || return 0
    for round in $(seq "$fleets"); do
        container_with_curl
        PACKAGES='' timed driver-seed "$here/seed.sh" "$ctid" "$site/installer/$installer" '' '' 'c 10:200'
        inside "$has_driver"
        remove_container
    done
}

# fleet_from_nothing: what the server sends from an empty cache to all packages in eight containers; once the cache is filled
# the clock runs. Nothing forbids the network then.
fleet_from_nothing() {
    say 'fleet, packages'
    reference_container
    fresh_fleet 8
    rm -rf "$cache"
    nvstage prefetch --recipe "$recipe" --for "$reference" > "$directory/output"
    provision_fleet fleet-packages bench
    sent fleet-sent
    fleet_has "$has_driver; $has_compiler"
    remove_fleet
}

# floor: the packages that nvstage has just installed, by nothing but dpkg, as many at once.
floor() {
    local mirror=("$cache"/apt-v1/[0-9a-f]*)
    fresh_fleet 8 "lxc.mount.entry: ${mirror[0]} mnt none bind,ro 0 0"
    timed fleet-floor each unpack_one "${fleet[@]}"
    fleet_has "$has_compiler"
    remove_fleet
}

unpack_one() {
    lxc-attach -n "$1" --clear-env -- /usr/bin/env PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive \
        sh -ec 'find /mnt -name "*.deb" -exec dpkg -i {} +'
}

# ---- shared: the same with one driver and one CUDA for all

measure_shared() {
    local round
    baseline
    fill_shared
    for round in $(seq 0 "$fleets"); do
        # The images are built in the first one.
        say "shared, round $round of $fleets"
        share_fleet "$([ "$round" = 0 ] && echo shared-first || echo shared)" --passthrough device
    done
    for round in $(seq "$fleets"); do
        say "shared, by a restart, round $round of $fleets"
        share_fleet shared-restart --passthrough mount
    done
}

# share_fleet NAME OPTION…: eight containers with the host's driver and CUDA.
share_fleet() {
    fresh_fleet 8
    provision_fleet "$1" bench-cuda --method share --cuda share --offline "${@:2}"
    fleet_has "$has_driver; $has_compiler"
    remove_fleet
}

# fill_shared: the cache has what the recipe without nvtop needs as well.
fill_shared() {
    fill_cache
    nvstage prefetch --recipe "$directory/bench-cuda.toml" --for "$reference" > "$directory/output"
}

# ---- growth: one to 32 containers, and 32 that need nothing

measure_growth() {
    local number
    fill_shared
    say 'growth, 32 clones'
    cloned_fleet 32
    provision_fleet clones-first bench
    for number in 1 2 4 8 16 32; do
        say "growth, $number unchanged"
        unchanged "$number"
    done
    remove_fleet
    remove_base
    # The images may have to be built.
    fresh_fleet 1
    provision_fleet growth-images bench-cuda --method share --cuda share --offline
    remove_fleet
    for number in 1 2 4 8 16 32; do
        say "growth, $number shared"
        fresh_fleet "$number"
        provision_fleet "growth-shared-$number" bench-cuda --method share --cuda share --offline
        remove_fleet
    done
    for number in 1 2 4 8 16 32; do
        say "growth, $number with a driver each"
        fresh_fleet "$number"
        provision_fleet "growth-driver-$number" bench-driver
        remove_fleet
    done
}

# unchanged NUMBER: the first so many of $fleet once more.
unchanged() {
    local all=("${fleet[@]}") round
    fleet=("${all[@]:0:$1}")
    for round in $(seq "$rounds"); do
        provision_fleet "unchanged-$1" bench
        ! grep -q '"changed"' "$directory/output" || { say "round $round changed something"; exit 1; }
    done
    fleet=("${all[@]}")
}

# ---- upgrade: the host gets another driver

measure_upgrade() {
    local round
    baseline
    fill_shared
    build_next
    for round in $(seq "$((fleets + 2))"); do
        say "upgrade, round $round of $((fleets + 2))"
        upgrade shared bench-cuda --method share --cuda share --offline
        fresh_fleet 8
        timed upgrade-restart each restart_one "${fleet[@]}"
        remove_fleet
    done
    for round in $(seq "$fleets"); do
        upgrade driver bench-driver
    done
}

# build_next: the image of the next driver, which the boot unit builds from the cache on a real host.
build_next() {
    load_module "$next"
    fresh_fleet 1
    nvstage prefetch --recipe "$recipe" --for debian12 > "$directory/output"
    nvstage provision --recipe "$directory/bench-cuda.toml" --gpus 0 --method share --cuda share "${fleet[@]}" > "$directory/output"
    remove_fleet
    load_module "$version"
}

# upgrade NAME RECIPE OPTION…: eight containers follow the host to the next driver, which the cache has.
upgrade() {
    fresh_fleet 8
    nvstage provision --recipe "$directory/$2.toml" --gpus 0 --jobs "$jobs" "${@:3}" "${fleet[@]}" > "$directory/output"
    load_module "$next"
    calls
    timed "upgrade-$1" nvstage sync --restart --jobs "$jobs" "${fleet[@]}"
    calls "upgrade-$1-calls"
    each_of "upgrade-$1-calls" "${#fleet[@]}"
    fleet_has "${has_driver//$version/$next}"
    load_module "$version"
    remove_fleet
}

load_module() {
    echo "NVRM version: NVIDIA UNIX x86_64 Kernel Module  $1  Thu Jul 24 00:04:00 UTC 2026" > /proc/driver/nvidia/version
}

restart_one() {
    pct shutdown "$1" --timeout 60 --forceStop 1
    pct start "$1"
}
