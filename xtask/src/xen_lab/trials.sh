# Runs test programs in dom0 of the laboratory. Each argument: a name, seconds, a program, and parts of names of its tests.
# Exits with 0 only if all passed and none was skipped.
guest=/run/conformance-guest

# What guests of the conformance suite start from: the suite's own program, its libraries, and modules.
guest_root() {
    rm -rf "$guest" && mkdir -p "$guest/root"/{dev,proc,sys,mod} || return
    cp "$1" "$guest/root/init" && strip --strip-debug "$guest/root/init" 2>/dev/null
    for library in $(ldd "$1" | grep -o '/[^ ]*'); do
        mkdir -p "$guest/root$(dirname "$library")" && cp -L "$library" "$guest/root$library" || return
    done
    for module in xen-gntdev xen-gntalloc xen-evtchn; do
        cp "$(modinfo -n "$module")" "$guest/root/mod/" || return
    done
    (cd "$guest/root" && find . | busybox cpio -o -H newc >../initrd 2>/dev/null) || return
    ln -sf "/boot/vmlinux-$(uname -r)" "$guest/vmlinux"
    export VSHMEM_XEN_GUEST=$guest
}

status=0
report=
for trial in "$@"; do
    read -r name seconds program tests <<<"$trial"
    echo "=== $name ${tests:-(all)}"
    case $name in *conformance) guest_root "$program" || echo "no root for the suite's guests" ;; esac
    start=$SECONDS
    # shellcheck disable=SC2086
    (cd "$(dirname "$program")" && timeout "$seconds" "$program" --test-threads=1 --nocapture $tests) 2>&1 | tee /run/said
    code=${PIPESTATUS[0]}
    # What this port does not have is no failure; what it has must have run.
    skipped=$(grep -o 'skipped: .*' /run/said | grep -v 'port xen ' | head -1)
    if [ $code != 0 ]; then
        result="FAILED ($code)"
        status=1
        # The only witnesses where a guest has died.
        tail -v -n 15 /var/log/xen/console/guest-*.log
    elif [ -n "$skipped" ]; then
        result=$skipped
        status=1
    else
        result=held
    fi
    report+=$(printf '  %-36s %4d s  %s' "$name" $((SECONDS - start)) "$result")$'\n'
    # Nothing may be left for the next.
    left=$(xl list | awk 'NR > 1 && $1 != "Domain-0" { print $1 }')
    if [ -n "$left" ]; then
        report+="    guests left behind: $left"$'\n'
        status=1
        for guest_left in $left; do xl destroy "$guest_left"; done
    fi
done
printf '\nIn dom0 of Xen, with guests of type %s:\n%s' "${VSHMEM_XEN_TYPE:-pv}" "$report"
exit $status
