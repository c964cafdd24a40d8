# Makes dom0 of the laboratory complete, runs what it is told to, and switches the machine off.
#
# Ports of the machine: control (words in, `ready` and the exit status out), standard input, output, error; or a terminal.
export PATH=/usr/lib/xen-4/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
fail() {
    echo "xen-lab: $*"
    busybox poweroff -f
}
mount -t tmpfs run /run || fail "memory for /run"
mkdir -p /dev/pts /dev/shm /run/lock
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs shm /dev/shm && chmod 1777 /dev/shm
ln -sf /proc/self/fd /dev/fd
busybox ip link set lo up
busybox hostname dom0
for module in xen-privcmd xenfs xen-evtchn xen-gntdev xen-gntalloc; do
    modprobe $module || fail "module $module"
done
mount -t xenfs xenfs /proc/xen || fail "xenfs"
grep -q control_d /proc/xen/capabilities || fail "this is not dom0"
tools=$(echo /usr/lib/xen-4.*/bin)
export PATH=$tools:$PATH
mkdir -p /run/xen /run/xenstored /var/lib/xen /var/lib/xenstored /var/log/xen/console
echo 'autoballoon="off"' >/etc/xen/xl.conf
xenstored --pid-file /run/xenstored.pid || fail "xenstored"
for ((i = 0; i < 200; i++)); do
    xenstore-read /tool >/dev/null 2>&1 && break
    sleep 0.1
done
xen-init-dom0 >/dev/null || fail "xen-init-dom0"
xenconsoled --log=guest --log-dir=/var/log/xen/console --pid-file=/run/xenconsoled.pid || fail "xenconsoled"

port() { echo /dev/vport*p"$1"; }
exec {control}<>"$(port 1)" || fail "the control port"
echo ready >&$control
# The number of words, then each with a zero behind it: the folder, the variables up to an empty word, the command.
read -r count <&$control
words=()
for ((i = 0; i < count; i++)); do
    IFS= read -r -d '' word <&$control
    words+=("$word")
done
cd "${words[0]}" 2>/dev/null || cd /
words=("${words[@]:1}")
while [ -n "${words[0]}" ]; do
    case ${words[0]} in
    # Before those of the machine.
    PATH=*) export PATH=${words[0]#PATH=}:$PATH ;;
    *) export "${words[0]?}" ;;
    esac
    words=("${words[@]:1}")
done
words=("${words[@]:1}")
if [ ${#words[@]} = 0 ]; then
    # Without a command: a shell on a terminal of its own.
    modules=$(ls /dev/hvc1 2>/dev/null)
    [ -n "$modules" ] || fail "no terminal"
    setsid -c bash -i </dev/hvc1 >/dev/hvc1 2>&1
    status=$?
else
    (exec {control}>&-; exec "${words[@]}") <"$(port 2)" >"$(port 3)" 2>"$(port 4)"
    status=$?
fi
echo "exit $status" >&$control
sync
busybox poweroff -f
