# containers.bash: the groups `downloads` and `containers` (sourced by `run`): the installer, and whole containers.
# shellcheck shell=bash disable=SC2154

# ---- containers to measure on

# inside SCRIPT: a shell in container $ctid; its output is shown only when it fails.
inside() {
    if ! lxc-attach -n "$ctid" --clear-env -- /usr/bin/env PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive \
        sh -ec "$1" > "$directory/output" 2>&1; then
        cat "$directory/output" >&2
        say "failed in container $ctid: $1"
        exit 1
    fi
}

# fresh_container: $ctid becomes that of a running privileged container.
fresh_container() {
    ctid=$((next_container++))
    "$world/new-container" "$directory" "$ctid" privileged "distribution-url=$site/distribution/"
    pct start "$ctid"
    until lxc-attach -n "$ctid" --clear-env -- systemctl is-system-running 2>&1 | grep -qE 'running|degraded'; do sleep 0.1; done
    calls
}

remove_container() {
    lxc-stop -k -n "$ctid"
    umount "/var/lib/lxc/.storage/subvol-$ctid-disk-0"
    rm -rf "$directory/containers/$ctid" "/etc/pve/lxc/$ctid.conf"
    ctid=none
}

# works_inside: every way must lead to the same: driver, device rules, compiler, packages. nvidia-smi is NVIDIA's own here,
# and answers nobody without a GPU.
works_inside() {
    inside "exec 3<>/dev/nvidia0; readlink -f /usr/lib/x86_64-linux-gnu/libcuda.so.1 | grep '$version\$'
        /usr/local/cuda-12.8/bin/nvcc --version | grep V12.8; /usr/local/cuda-12.8/bin/ptxas --version | grep V12.8
        dpkg-query -W -f '\${db:Status-Status}' nvtop | grep ^installed"
}

# ---- downloads

measure_downloads() {
    local round
    for round in $(seq "$downloads"); do
        say "downloads, round $round of $downloads"
        download_by_nvstage
        download_by_commands
    done
}

download_by_nvstage() {
    rm -rf "$cache"
    timed prefetch nvstage prefetch --recipe "$recipe" --for debian12
    item_seconds download driver
}

download_by_commands() {
    rm -rf "$directory/plain"
    mkdir "$directory/plain"
    timed curl curl -fsS "$site/installer/$installer" -o "$directory/plain/$installer"
    timed sha256sum sha256sum "$directory/plain/$installer"
    grep -q "^$digest" "$directory/output" || { say 'sha256sum sees another digest'; exit 1; }
    timed extract sh "$directory/plain/$installer" -x --target "$directory/plain/tree"
    sum curl+sha256sum curl sha256sum
    sum curl+sha256sum+extract curl+sha256sum extract
    rm -rf "$directory/plain"
}

# ---- containers

measure_containers() {
    local round
    for round in $(seq "$rounds"); do
        say "containers, round $round of $rounds"
        container_by_nvstage cold
        container_by_nvstage warm
        container_by_seed
    done
}

# container_with_curl: as templates have a download program.
container_with_curl() {
    fresh_container
    inside 'apt-get -qq update; apt-get -qq -y install --no-install-recommends curl'
    calls
}

container_by_nvstage() {
    if [ "$1" = cold ]; then rm -rf "$cache"; fi
    container_with_curl
    timed "container-$1" nvstage provision --recipe "$recipe" "$ctid" --gpus 0
    calls calls-nvstage
    timed again nvstage provision --recipe "$recipe" "$ctid" --gpus 0
    ! grep -q '"changed"' "$directory/output" || { say 'the second run changed something'; exit 1; }
    calls calls-again
    works_inside
    remove_container
}

container_by_seed() {
    container_with_curl
    sent
    timed container-seed "$here/seed.sh" "$ctid" "$site/installer/$installer" "$site/cuda-real/" "$site/cuda-real/$key" \
        'c 10:200'
    calls calls-seed
    sent seed-sent
    works_inside
    remove_container
}
