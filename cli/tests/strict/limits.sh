# Limits read and written by a static shell. Run at the kernel, in an IPC namespace of its own, and under --strict: both say the same.
cd /proc/sys/kernel || exit
r() { cat shmmax shmall shmmni sem msgmax msgmnb msgmni shm_rmid_forced shm_next_id; }
r
echo 4097 > shmmni; echo $?; cat shmmni
echo 1234567 > shmmax; cat < /proc/sys/kernel/shmmax
echo 0x20 > msgmni; cat /proc/self/root/proc/sys/kernel/msgmni
echo z > msgmni; echo $?
echo -1 > msgmni; echo $?
echo "100 200 30 99999" > sem; echo $?; cat sem
echo "100 200 30 40" > sem; cat sem
echo 99999 > shmmni; echo $?
sysctl -w kernel.msgmax=4000; sysctl kernel.msgmax kernel.sem
echo 777 | tee shmall; cat shmall
echo 7001 | dd of=msgmnb 2> /dev/null; cat msgmnb
(echo 7002 > msgmnb); (cat msgmnb)
{ echo 11; cat msgmnb; echo 12; } > /dev/null
r
cat /proc/sysvipc/shm /proc/sysvipc/sem /proc/sysvipc/msg
cd /proc && cat sysvipc/sem
