# report.bash: docs/measurements.md, from the samples of all groups (sourced by `run`).
# shellcheck shell=bash disable=SC2154

report() {
    local size
    size="$(($(stat -c%s "$NVSTAGE_WORLD/installer/$installer") / 1000000)) MB"
    cat <<END
# Measurements

Written by \`make bench\` (\`DOWNLOADS=$downloads ROUNDS=$rounds FLEETS=$fleets\`), which takes everything on one machine in
one run. Files come over loopback from a small HTTP server, the same for all; the competitors take turns; what was written is
on disk before the next sample begins. A time is the median of $downloads samples (downloads, packages, \`cache verify\`), of
$fleets or more (many containers; one where no span is given) or of $rounds or more (the others), with the least and the greatest in
brackets. \`pct\` is the test world's, and burns the 0.45 s of processor time a call that Proxmox VE's own needs.

Machine: $(machine)

## Driver and containers

| | nvstage | plain commands | ratio |
|---|---|---|---|
| installer of $size: download, verify | $(seconds download) | \`curl\`, \`sha256sum\`: $(seconds curl+sha256sum) | $(ratio download curl+sha256sum) |
| the same, and unpack | $(seconds prefetch) | \`curl\`, \`sha256sum\`, \`sh X.run -x\`: $(seconds curl+sha256sum+extract) | $(ratio prefetch curl+sha256sum+extract) |
| one container, empty cache | $(seconds container-cold) | \`benches/seed.sh\`: $(seconds container-seed) | $(ratio container-cold container-seed) |
| one container, filled cache | $(seconds container-warm) | \`benches/seed.sh\`: $(seconds container-seed) | $(ratio container-warm container-seed) |
| the same container once more | $(seconds again) | | |
| calls of \`pct\`: fresh container | $(counts calls-nvstage) | \`benches/seed.sh\`: $(counts calls-seed) | |
| calls of \`pct\`: once more | $(counts calls-again) | | |

What they mean:

- Download, verify: what \`prefetch\` reports as the item's own time. It hashes while it downloads, and includes fsync and
  the renaming into the cache; \`curl\` leaves the file to the page cache. The goal is a ratio of at most 0.5.
- And unpack: the whole of \`prefetch --for debian12\` with an empty cache, key and start of the program included. The
  installer's own \`-x\` unpacks with its embedded decompressor.
- Empty cache: everything for the first container, from its untouched configuration to the passed checks. The installer is
  $size, apt brings $(megabytes packages-bytes) from the network. \`benches/seed.sh\` is the sequence that people copy; it trusts the
  download. Both install all libraries, OpenGL too, into a privileged running container that has \`curl\`.
- Filled cache: every further container, with the driver in the cache and the packages not. apt's part is the same in both.
- Once more: how long it takes to find that nothing is to be done; every file of the driver is checked for that.
- Calls of \`pct\`: on Proxmox VE each costs about half a second of processor time, whatever it does.

## Packages, cache, bundle

| | nvstage | plain commands | ratio |
|---|---|---|---|
| $(counts packages-count) packages of $(megabytes packages-bytes): resolve, download, verify | $(seconds packages) | \`curl\`, \`sha256sum -c\`: $(seconds packages-curl+sha256sum) | $(ratio packages packages-curl+sha256sum) |
| the whole of that \`prefetch\` | $(seconds packages-prefetch) | the same: $(seconds packages-curl+sha256sum) | $(ratio packages-prefetch packages-curl+sha256sum) |
| against a parallel download | $(seconds packages-prefetch) | \`curl --parallel\`, \`sha256sum -c\`: $(seconds packages-curl-parallel+sha256sum) | $(ratio packages-prefetch packages-curl-parallel+sha256sum) |
| \`cache verify\`, $(megabytes cache-bytes) | $(seconds verify) | \`sha256sum\` on all cores: $(seconds verify-sha256sum) | $(ratio verify verify-sha256sum) |
| \`bundle export\` | $(seconds bundle-export) | \`tar\`, \`zstd -T0\`: $(seconds bundle-tar) | $(ratio bundle-export bundle-tar) |
| size of the bundle | $(megabytes bundle-bytes) | \`tar\`, \`zstd -T0\`: $(megabytes bundle-tar-bytes) | $(ratio bundle-bytes bundle-tar-bytes) |
| \`bundle import\`, which verifies | $(seconds bundle-import) | \`zstd -d\`, \`tar\`, which do not: $(seconds bundle-untar) | $(ratio bundle-import bundle-untar) |
| the same | $(seconds bundle-import) | \`zstd -d\`, \`tar\`, \`sha256sum -c\`: $(seconds bundle-untar+sha256sum) | $(ratio bundle-import bundle-untar+sha256sum) |

What they mean:

- Packages: all that \`cuda-toolkit-12-8\` and \`nvtop\` need in a container. nvstage's figure is the time that \`prefetch --for
  CTID\` reports for them: signatures, the resolving by apt, the download, the digests, fsync, and the mirror in the cache. The
  installer is in the cache before. \`curl\` gets the same files (\`InRelease\`, \`Packages.gz\`, every \`.deb\`) with all URLs
  in one process, and nobody has to find out which they are; \`sha256sum -c\` knows their digests.
- The whole: the wall time of the program, with its look at the container and the installer.
- Parallel: \`curl --parallel\` opens up to 50 connections to a server on the same machine.
- \`cache verify\`: every byte of the cache read again. It holds the $size installer, that installer unpacked, and the
  packages; the mirror is links to them. \`sha256sum\` gets the same files, the unpacked ones too, by \`xargs -P $(nproc) -n 4\`.
  All of it is in the page cache, for both.
- \`bundle export\`: one file with what another host needs. \`tar\` packs the cache's blobs and locks. Nearly all of it is
  compressed already. Export and import end with everything on disk, in both columns (\`sync\`).
- \`bundle import\`: into an empty cache, which has the same blobs then. The second row has \`sha256sum -c\` in the plain
  column too, since nvstage takes nothing in that it has not verified.

## Packages offline

| | nvstage | plain commands | ratio |
|---|---|---|---|
| packages into one container | \`--offline\`: $(seconds offline) | \`apt-get\`, loopback HTTP: $(seconds online) | $(ratio offline online) |
| of that, the step that installs them | $(seconds offline-apt) | the same: $(seconds online) | $(ratio offline-apt online) |
| calls of \`pct\` | $(counts offline-calls) | $(counts online-calls) | |
| bytes on the network | $(counts offline-octets) | $(megabytes online-octets) | |
| connections opened, datagrams sent | $(counts offline-opened) | $(counts online-opened) | |
| what the container keeps | $(megabytes offline-kept) | with \`apt-get clean\`: $(megabytes online-kept); without: $(megabytes online-kept-unclean) | $(ratio offline-kept online-kept-unclean) |
| archives left behind | $(counts offline-archives) | without \`apt-get clean\`: $(counts online-archives), $(megabytes online-archives-bytes) | |
| package lists left behind | $(counts offline-lists) | $(counts online-lists) | |
| mounts left behind | $(counts offline-mounts) | | |

What they mean:

- Into one container: a running privileged container that has the driver already, for both. \`provision --offline\` checks
  every file of the driver, asks apt what it would do and compares it with the lock, installs from the mirror that it shows
  inside for that long, and checks the result; the step alone is its one call of \`pct\` with apt in it. The plain column
  is one \`pct exec\` with \`apt-get update\`, \`apt-get install --no-install-recommends\` and \`apt-get clean\`. Both
  are mostly \`dpkg\` unpacking.
- Bytes on the network: what the kernel counts as IPv4, headers included, in the container's network namespace, and for
  nvstage in the host's as well, loopback included. Server and bridge are up and the container's own sources point there:
  only the program's own will keeps it from asking. ARP and IPv6's looking for neighbours are not counted: the kernels do
  that by themselves.
- Connections, datagrams: TCP connections that were opened and UDP datagrams that were sent, over IPv4 and IPv6, in the same
  namespaces. An attempt that failed would show here.
- What the container keeps: by how much its own files grow on disk, driver not included. Without \`apt-get clean\` every
  archive stays.
- Left behind: \`.deb\` files in \`/var/cache/apt/archives\`; lists in \`/var/lib/apt/lists\` and below \`/run\`; mounts in the
  container that were not there before.

## Many containers

$(many_containers)

## Memory

| peak | MiB |
|---|---|
$(peaks)

The largest resident set of any single process that the program started, itself included, over all samples. The limit is
64 MiB.

## Not measured

The wire (loopback is faster than any mirror), a real GPU, and NVIDIA's own installer program. The libraries inside the
installer are NVIDIA's, with filler up to today's size. \`nvidia-smi\` is NVIDIA's too and answers nobody without a GPU, so
its check is left out of the recipe. The repository has the packages and the versions that NVIDIA's \`cuda-toolkit-12-8\` draws
in, signed by a key of the test world; cuBLAS, NVRTC, nvJitLink, CUPTI, CCCL, \`ptxas\` and NVVM are NVIDIA's own files, the
other packages are nearly empty, and the whole is a sixth of the real one. Its index is small: NVIDIA's has 1 to 3 MB. The
containers' roots are overlays that ignore fsync, which makes apt faster than it is on a disk, in both columns.
END
}

# many_containers: the goals, what was reached, and how it grows.
many_containers() {
    cat <<END
The copied sequence (\`benches/seed.sh\`) works on one container after the other: eight take eight times the $(seconds container-seed)
of one, and that is 1 in the third column. nvstage works on $jobs containers at a time (\`--jobs $jobs\`).

| what | goal | ratio | measured | |
|---|---|---|---|---|
$(goal 1.005 "$(fraction fleet-sent fleet-sent-content)" 'network bytes, 8 containers, empty cache' '1.0 × content' \
    "$(megabytes fleet-sent); \`seed.sh\`: $(ratio seed-sent fleet-sent-content 0.125) × content")
$(goal 0.25 "$(fraction fleet-driver container-seed 8)" '8 containers, installer, driver only' '0.25' "$(seconds fleet-driver)")
$(goal 0.6 "$(fraction fleet-packages container-seed 8)" '8 containers, installer, with packages' '0.6' "$(seconds fleet-packages)")
| the floor of that: \`dpkg -i\` of the same packages | | $(fraction fleet-floor container-seed 8) | $(seconds fleet-floor) | |
$(goal 0.03 "$(fraction shared container-seed 8)" '8 containers, share, driver and CUDA' '0.03' "$(seconds shared)")
| the same by mount entries, which take a restart | | $(fraction shared-restart container-seed 8) | $(seconds shared-restart) | |
| the same where the images are not yet built | | $(fraction shared-first container-seed 8) | $(seconds shared-first) | |
$(goal 2 "$(counts unchanged-32-calls)" '32 containers, nothing to do: calls of `pct` each' '2' "$(seconds unchanged-32) in all")
$(goal 20 "$(milliseconds unchanged-32-own)" '32 containers, nothing to do: own processor time each' '20 ms' "$(milliseconds unchanged-32-own) ms")
$(goal 1.1 "$(fraction upgrade-shared upgrade-restart)" 'host upgrade, 8 containers, `sync`, share' 'restarts alone' \
    "$(seconds upgrade-shared); restarts: $(seconds upgrade-restart)")
$(goal 0.3 "$(fraction upgrade-driver container-seed 8)" 'host upgrade, 8 containers, `sync`, installer' '0.3' "$(seconds upgrade-driver)")
$(goal 1.05 "$(per_container unchanged)" 'growth, nothing to do: one of 32 against one alone' 'linear' "$(spread unchanged)")
$(goal 1.05 "$(per_container growth-shared)" 'growth, share: one of 32 against one alone' 'linear' "$(spread growth-shared)")
$(goal 1.05 "$(per_container growth-driver)" 'growth, installer: one of 32 against one alone' 'linear' "$(spread growth-driver)")
$(goal 64 "$(most_memory)" 'resident memory, throughout' '64 MiB' "$(most_memory) MiB")

Calls of \`pct\` for each container: installer, driver only $(counts fleet-driver-calls), with packages $(counts fleet-packages-calls),
share $(counts shared-calls) and by a restart $(counts shared-restart-calls), \`sync\` with share $(counts upgrade-shared-calls) and with the installer $(counts upgrade-driver-calls); \`seed.sh\` $(counts calls-seed).

| containers | $(numbers unchanged ' | ') |
|---|$(numbers unchanged '---|' | sed 's/[0-9]*//g')---|
| nothing to do | $(growth unchanged) |
| share, driver and CUDA | $(growth growth-shared) |
| installer, driver only | $(growth growth-driver) |

What they mean:

- The containers are privileged, run, and have neither driver nor CUDA. What it takes to make and start them is not measured.
- Network bytes: what the server sends for \`prefetch --for\` and \`provision\` together, from an empty cache to driver and
  packages in all eight; content is every different file once.
- Installer: the cache is filled. \`seed.sh\` with the driver alone, without any package, takes $(seconds driver-seed): against that
  eight with the driver alone are $(ratio fleet-driver driver-seed 8).
- The floor: nothing but \`dpkg -i\` of the same archives, from a read-only mount, in eight containers, $jobs at a time, without
  \`pct\`. It unpacks xz, by the processors; what is above it is the driver, apt, and the calls of \`pct\`.
- Share: driver and CUDA are images on the host. With \`--passthrough device\` Proxmox VE 9 adds the devices to the running
  container, and nvstage shows the images in it: in each there remain lines, links and \`ldconfig\`. Mount entries
  (\`--passthrough mount\`, which every version has) take a restart besides.
- Nothing to do: linked clones of a template, the second time that each is looked at. Own processor time is \`utime\` and \`stime\`
  of nvstage's process without its children, divided by the number of containers.
- Host upgrade: the cache has the next driver, and its image is built, as the boot unit does it. \`sync --restart\` looks at
  each container, restarts it, and checks it; beside it \`pct shutdown\` and \`pct start\` of eight, $jobs at a time. Counted as reached within a tenth.
- Growth: the time for each container, of as many together as the column says. Linear is at most what one takes alone
  (and a twentieth for chance).
END
}

# goal LIMIT RATIO WHAT GOAL MEASURED: a line of the table, and whether the ratio is within the limit.
goal() {
    local reached
    reached=$(awk -v limit="$1" -v ratio="${2##* to }" 'BEGIN { print ratio <= limit ? "reached" : "**missed**" }')
    echo "| $3 | $4 | $2 | $5 | $reached |"
}

milliseconds() { awk "BEGIN { printf \"%.1f\", $(median "$1") * 1000 }"; }

# numbers NAME SEPARATOR: of how many containers there are samples.
numbers() {
    (cd "$directory/samples" && printf '%s\n' "$1"-*) | sed -n "s/^$1-\([0-9]*\)\$/\1/p" | sort -n | paste -sd '|' | sed "s/|/$2/g"
}

# growth NAME: the medians for each container, by the numbers of the longest row.
growth() {
    local number
    for number in $(numbers unchanged ' '); do
        if [ -e "$directory/samples/$1-$number" ]; then awk "BEGIN { printf \"%.2f s\\n\", $(median "$1-$number") / $number }"; else echo; fi
    done | paste -sd '|' | sed 's/|/ | /g'
}

# per_container NAME: what one of the largest number takes against one alone.
per_container() {
    local most
    most=$(numbers "$1" '\n' | tail -n 1)
    fraction "$1-$most" "$1-1" "$most"
}

# spread NAME: both.
spread() {
    local most
    most=$(numbers "$1" '\n' | tail -n 1)
    echo "$(awk "BEGIN { printf \"%.2f s\", $(median "$1-$most") / $most }"), alone $(awk "BEGIN { printf \"%.2f s\", $(median "$1-1") }")"
}

most_memory() { (cd "$directory/samples" && cat memory-* | sort -n | awk 'END { printf "%.0f", $1 / 1024 }'); }

peaks() {
    local verb
    for verb in prefetch provision sync 'cache verify' 'bundle export' 'bundle import'; do
        echo "| \`$verb\` | $(mebibytes "memory-${verb// /-}") |"
    done
}

machine() {
    local model memory
    model=$(sed -n 's/^model name\t*: //p' /proc/cpuinfo | head -1)
    memory=$(awk '/^MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo)
    echo "$(nproc) cores of $model, $memory of memory, $(findmnt -n -o FSTYPE -T "$directory"), Linux $(uname -r)," \
        "$(. /etc/os-release && echo "$PRETTY_NAME")."
}
