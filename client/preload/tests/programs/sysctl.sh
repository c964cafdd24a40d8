# Limits read and written in the ways that programs have. Run at the kernel, in an IPC namespace of its own, and under Vshmem: both say the same.
cd /proc/sys/kernel || exit
r() { cat shmmax shmall shmmni sem msgmax msgmnb msgmni shm_rmid_forced shm_next_id | tr '\n' ' '; echo; }
r
echo 4097 > shmmni; echo $?; cat shmmni
/bin/echo 1234567 > shmmax; cat shmmax
sh -c 'echo 0x20 > msgmni'; cat msgmni
sh -c 'echo z > msgmni'; echo $?
sh -c 'echo -1 > msgmni'; echo $?
sysctl -w kernel.msgmax=4000 kernel.sem="100 200 30 40"; echo $?
sysctl -w kernel.msgmni=99999; echo $?
sysctl kernel.sem
python3 -c "
f=open('msgmnb','w'); f.write('5000'); f.close()
import os
try: os.write(os.open('shmmni',os.O_WRONLY),b'rubbish')
except OSError as e: print(e)
try:
  f=open('shmmni','w'); f.write('z'); f.close()
except OSError as e: print(e)
"
perl -e 'open(F,">","msgmnb"); print F "6000\n"; close F or print "failed $!\n"; open(F,">","msgmnb"); print F "x\n"; close F or print "failed $!\n";'
tee shmall <<< 777 ; cat shmall
dd of=msgmnb status=none <<< 7001
r
setpriv --reuid 1000 --clear-groups sh -c 'echo 5 > shmmni; echo $?'
echo 0 > msgmax; ipcs -q -l | grep 'max size'
