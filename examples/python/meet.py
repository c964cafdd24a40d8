#!/usr/bin/python3
"""Two sides of a conversation through System V IPC: `meet.py answer` and `meet.py ask`, in any two domains."""
import sys
import sysv_ipc as ipc

KEY = 0x7E73
# Both may make them; neither minds that the other has.
segment = ipc.SharedMemory(KEY, ipc.IPC_CREAT, 0o600, 4096)
ready = ipc.Semaphore(KEY, ipc.IPC_CREAT, 0o600)
done = ipc.Semaphore(KEY + 1, ipc.IPC_CREAT, 0o600)
queue = ipc.MessageQueue(KEY, ipc.IPC_CREAT, 0o600)

if sys.argv[1] == "ask":
    queue.send(b"python", type=1)
    ready.acquire()
    print("heard:", segment.read(4096).split(b"\0")[0].decode())
    done.release()
else:
    name, _ = queue.receive(type=1)
    segment.write(b"hello, " + name + b"\0")
    ready.release()
    done.acquire(timeout=30)
    segment.detach()
    for construct in (segment, ready, done, queue):
        construct.remove()
