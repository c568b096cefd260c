# For scripts/up and scripts/down: processes that outlive the script that started them. To be sourced.
# $dir/run/NAME.pid names the process NAME for good: its id alone may by now be somebody else's.

# The process $1 as no other ever is: its id, when it began, and the boot that counts from.
identity() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    # What the program calls itself stands in parentheses and may hold spaces.
    read -ra stat <<<"${stat##*) }"
    # A zombie runs no more.
    [ "${stat[0]}" != Z ] || return 1
    echo "$1 ${stat[19]} $(cat /proc/sys/kernel/random/boot_id)"
}

# Notes that the process $2 is NAME.
note() {
    identity "$2" >"$dir/run/$1.pid.new" && mv "$dir/run/$1.pid.new" "$dir/run/$1.pid"
}

# The id of NAME, when it runs.
pid_of() {
    local noted pid
    noted=$(cat "$dir/run/$1.pid" 2>/dev/null) || return 1
    pid=${noted%% *}
    [ -n "$pid" ] && [ "$(identity "$pid")" = "$noted" ] || return 1
    echo "$pid"
}

is_running() { pid_of "$1" >/dev/null; }

# Whether $dir is one that scripts/up made. It is written to and deleted from: let it be nobody else's.
is_ours() { [ -f "$dir/couponmesh-up" ] && [ -O "$dir" ] && [ ! -L "$dir" ]; }

# One at a time. Whatever is started must not inherit the lock (9>&-).
lock() {
    exec 9>"$dir/lock"
    flock --nonblock 9 || die "another make up or make down is at work in $dir"
}
