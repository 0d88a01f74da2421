# sampling.bash: what `run` and its groups measure with (sourced): a sample is one line in the file of its name below
# $directory/samples; here they are taken, and put into words.
# shellcheck shell=bash disable=SC2154  # directory, program, cache, site: of `run`

say() { printf 'bench: %s\n' "$*" >&2; }

# ---- taking samples

# sample NAME NUMBER
sample() { echo "$2" >> "$directory/samples/$1"; }

# timed NAME COMMAND…: the command's wall time in seconds, and in cpu-NAME the processor time of all that it waited for; its
# output is shown only when it fails.
timed() {
    local name=$1 TIMEFORMAT='%R %U %S' wall user system
    shift
    sync
    if ! { time "$@" > "$directory/output" 2>&1; } 2> "$directory/time"; then
        cat "$directory/output" >&2
        say "failed: $*"
        exit 1
    fi
    read -r wall user system < "$directory/time"
    sample "$name" "$wall"
    sample "cpu-$name" "$(awk "BEGIN { print $user + $system }")"
}

# synced COMMAND…: what it writes is on disk when it ends.
synced() { "$@" && sync -f "$directory"; }

# nvstage VERB ARGUMENT…: the program, on $cache; VERB may be two words. Its peak resident memory in kB becomes a sample of
# memory-VERB, the processor time of its own, without its children's, in seconds one of own-VERB.
nvstage() {
    local verb
    read -ra verb <<<"$1"
    # When it has ended and is not yet waited for: utime and stime of proc(5). Then getrusage of the children that were
    # waited for: what GNU time calls %M.
    perl -e 'my ($memory, $own) = splice @ARGV, 0, 2;
        my ($pid, $ended, $usage) = (fork // die, "\0" x 128, "\0" x 144);
        if (!$pid) { exec { $ARGV[0] } @ARGV or exit 127 }
        syscall(247, 1, $pid, $ended, 4 | 0x01000000, 0) == 0 or die "waitid: $!";
        open my $stat, "<", "/proc/$pid/stat" or die; my @field = split " ", <$stat> =~ s/^.*\) //r;
        waitpid $pid, 0; my $status = $?;
        syscall(98, -1, $usage) == 0 or die;
        sub note { open my $out, ">>", $_[0] or die; print $out "$_[1]\n" }
        note($memory, (unpack "q18", $usage)[4]); note($own, ($field[11] + $field[12]) / 100);
        exit($status > 255 ? $status >> 8 : $status)' \
        "$directory/samples/memory-${1// /-}" "$directory/samples/own-${1// /-}" \
        "$program" --json --cache "$cache" "${verb[@]}" "${@:2}" 2> "$directory/events" || { cat "$directory/events"; return 1; }
}

# item_seconds NAME PURPOSE: of `prefetch`, whose result is the latest output, its own time for the item of that purpose.
item_seconds() {
    sample "$1" "$(perl -MJSON::PP -e 'local $/; my $wanted = shift;
        for (@{decode_json(<STDIN>)->{items}}) { print "$_->{seconds}\n" if index($_->{purpose}, $wanted) == 0 }' \
        "$2" < "$directory/output")"
}

# sum NEW NAME…: their latest samples together are one of NEW.
sum() {
    local new=$1
    shift
    sample "$new" "$(cd "$directory/samples" && tail -qn 1 "$@" | awk '{ total += $1 } END { printf "%.12g\n", total }')"
}

# calls [NAME]: how many calls of pct there were since the last time; a script among the arguments of one has many lines.
calls() {
    if [ -n "${1:-}" ]; then
        sample "$1" "$(grep -cE '^((exec|push|start|stop|shutdown|reboot|status|config|set) [1-9][0-9]+( |$)|list$)' /run/pct-front/calls)"
    fi
    : > /run/pct-front/calls
}

# sent [NAME]: how many bytes the server has sent since the last time; in NAME-content those of every different file once.
sent() {
    if [ -n "${1:-}" ]; then
        sample "$1" "$(awk '{ total += $1 } END { printf "%.0f\n", total }' "$directory/sent")"
        sample "$1-content" "$(cut -d' ' -f2- "$directory/sent" | sort -u | (cd "$NVSTAGE_WORLD" && tr '\n' '\0' |
            xargs -0 stat -c %s) | awk '{ total += $1 } END { printf "%.0f\n", total }')"
    fi
    : > "$directory/sent"
}

# ---- putting them into words

median() {
    sort -n "$directory/samples/$1" | awk '{ all[NR] = $1 }
        END { printf "%.12g\n", NR % 2 ? all[(NR + 1) / 2] : (all[NR / 2] + all[NR / 2 + 1]) / 2 }'
}

# seconds NAME: the median, and the span of all if there are several.
seconds() {
    sort -n "$directory/samples/$1" | awk -v median="$(median "$1")" 'NR == 1 { least = $1 }
        END { printf NR == 1 ? "%.2f s" : "%.2f s (%.2f to %.2f)", median, least, $1 }'
}

# ratio NAME NAME [FACTOR]: of the medians; the second is multiplied.
ratio() { awk "BEGIN { printf \"%.2f\", $(median "$1") / $(median "$2") / ${3:-1} }"; }

# fraction: the same where a hundredth is much.
fraction() { awk "BEGIN { printf \"%.3f\", $(median "$1") / $(median "$2") / ${3:-1} }"; }

# megabytes NAME: the median of numbers of bytes.
megabytes() { awk "BEGIN { printf \"%.0f MB\", $(median "$1") / 1000000 }"; }

# mebibytes NAME: the largest of numbers of kB, without the unit.
mebibytes() { sort -n "$directory/samples/$1" | awk 'END { printf "%.0f", $1 / 1024 }'; }

# counts NAME: the smallest and the largest, or the only one.
counts() { sort -n "$directory/samples/$1" | awk 'NR == 1 { least = $1 } END { print least == $1 ? $1 : least " to " $1 }'; }

# all_samples: every name with its median and its span, for a run of some groups only.
all_samples() {
    local name
    for name in "$directory/samples"/*; do
        name=${name##*/}
        sort -n "$directory/samples/$name" | awk -v name="$name" -v median="$(median "$name")" 'NR == 1 { least = $1 }
            END { printf "%-28s %12.12g (%.12g to %.12g, %d samples)\n", name, median, least, $1, NR }'
    done
}
