/* Calls with arguments drawn by a seed: what they gave, line by line, so that two places can be compared. Who begins as root is somebody else now and then. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <time.h>
#include <unistd.h>
static uint64_t state;
static uint64_t draw(void) { state ^= state << 13; state ^= state >> 7; state ^= state << 17; return state; }
static int of(const int *list, int n) { return list[draw() % n]; }
#define OF(...) of((int[]){__VA_ARGS__}, sizeof (int[]){__VA_ARGS__} / sizeof(int))
static int ids[3][64], made[3];
static char *page; /* the end of a page, nothing behind */
static char *at[16];
static int base;
static int pick(int k) {
	if (made[k] == 0 || draw() % 12 == 0) return OF(-1, 0x7fffffff, -2147483647 - 1, 0x3fffffff);
	return ids[k][draw() % (made[k] < 64 ? made[k] : 64)];
}
static int index_of(int k, int id) { for (int i = 0; i < 64 && i < made[k]; i++) if (ids[k][i] == id) return i; return -1; }
static void *pointer(size_t size) {
	switch (draw() % 10) {
	case 0: return NULL;
	case 1: return (void *)8;
	case 2: return page + 4096 - (draw() % size);
	case 3: return page + 4096; /* nothing */
	case 4: return (void *)0x123456789000;
	case 5: return page + 8192; /* read only */
	case 6: return (void *)-4096;
	default: return page + (draw() % 64) * 8;
	}
}
static void said(const char *what, long r) { printf("%s %ld %s\n", what, r < 0 ? -1 : r, r == -1 ? strerrorname_np(errno) : "0"); }
union semun { int val; void *p; };
int main(int n, char **w) {
	state = strtoull(w[1], 0, 0) * 2654435761u + 88172645463325252u;
	int steps = atoi(w[2]);
	base = 0x77000000 | (atoi(w[1]) & 0xffff) << 4;
	page = mmap(0, 4 * 4096, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	mprotect(page + 4096, 4096, 0); setvbuf(stdout, 0, _IOLBF, 0); mprotect(page + 8192, 4096, PROT_READ);
	int root = geteuid() == 0; (void)n;
	for (int i = 0; i < steps; i++) {
		int id, r; printf("%d ", i);
		for (int j = 0; j < 4096; j += 8) ((long *)page)[j / 8] = OF(1, 0, -1, 2, 3, 0x7fffffff, 0x10001, 5) ;
		if (draw() % 7 == 0) { int user = OF(0, 0, 65534); if (root && (seteuid(0) || seteuid(user))) return 1; }
		switch (draw() % 26) {
		case 0: case 1: { int key = OF(0, base, base + 1, base + 2); size_t size = (size_t[]){0, 1, 4096, 4097, 10000, 65536, -1, 10000}[draw() % 8]; int f = OF(0, 01000, 03000, 02000, 01000 | 010000) | OF(0600, 0666, 0, 0400, 0777, 0006, 0004, 0002, 0660) | OF(0, 0, 0, 0x100000, 0x40000000);
			errno = 0; r = shmget(key, size, f); if (r >= 0 && index_of(0, r) < 0) ids[0][made[0]++ % 64] = r; printf("shmget %x %zx %o ", key, size, f); said("", r < 0 ? r : index_of(0, r)); break; }
		case 2: case 3: { int key = OF(0, base, base + 1, base + 2), c = OF(0, 1, 2, 5, 100, -1, 32000, 32001, 0x7fffffff), f = OF(0, 01000, 03000, 02000) | OF(0600, 0666, 0, 0400, 0006, 0004, 0002, 0660) | OF(0, 0, 0x100000, 0x40000000);
			r = semget(key, c, f); if (r >= 0 && index_of(1, r) < 0) ids[1][made[1]++ % 64] = r; printf("semget %x %d %o ", key, c, f); said("", r < 0 ? r : index_of(1, r)); break; }
		case 4: { int key = OF(0, base, base + 1, base + 2), f = OF(0, 01000, 03000, 02000) | OF(0600, 0666, 0, 0400, 0006, 0004, 0002, 0660) | OF(0, 0, 0x100000, 0x40000000);
			r = msgget(key, f); if (r >= 0 && index_of(2, r) < 0) ids[2][made[2]++ % 64] = r; printf("msgget %x %o ", key, f); said("", r < 0 ? r : index_of(2, r)); break; }
		case 5: case 6: case 7: case 8: case 9: { id = pick(1); struct sembuf ops[600]; size_t c = (size_t[]){0, 1, 1, 1, 1, 2, 3, 3, 8, 9, 64, 500, 501, (size_t)-1, 1ul << 32, (1ul << 32) + 1}[draw() % 16];
			for (int j = 0; j < 600; j++) ops[j] = (struct sembuf){ OF(0, 0, 0, 1, 1, 2, 99, 65535), OF(0, 1, -1, 2, -2, 32767, -32768, 100, -100), OF(0, 0, 0, SEM_UNDO, 0, 0x10, -1) | IPC_NOWAIT };
			printf("semop %d %zx ", index_of(1, id), c); 
			if (draw() % 6 == 0) { void *p = pointer(c % 501 * 6 + 1); { struct timespec z = {0, 1000}; said("p", semtimedop(id, p, c % 4, &z)); } }
			else if (draw() % 4 == 0) { struct timespec t = { OF(0, -1, 0, 1, 0x7fffffff), OF(0, -1, 1, 999999999, 1000000000) }; said("t", semtimedop(id, ops, c, draw() % 5 ? &t : pointer(16))); }
			else said("", semop(id, ops, c));
			break; }
		case 10: case 11: { id = pick(1); int num = OF(0, 1, 2, 99, -1, 65536), cmd = OF(GETVAL, GETNCNT, GETZCNT, GETVAL); printf("semctl %d %d %d ", index_of(1, id), num, cmd); said("", semctl(id, num, cmd, 0)); break; }
		case 12: { id = pick(1); int num = OF(0, 1, 2, 99, -1); union semun u = { .val = OF(0, 1, 5, 32767, 32768, -1, 0x7fffffff) }; printf("setval %d %d %d ", index_of(1, id), num, u.val); said("", semctl(id, num, SETVAL, u)); break; }
		case 13: { id = pick(1); int cmd = OF(GETALL, SETALL, IPC_STAT, IPC_SET, IPC_INFO, SEM_INFO); union semun u = { .p = pointer(100) }; if (cmd == IPC_SET && u.p >= (void *)page && u.p < (void *)(page + 4096)) memset(page, 0, 4096); printf("semctlp %d %d ", index_of(1, id), cmd); r = semctl(id, OF(0, 0, 7), cmd, u); said("", r < 0 ? r : 0); break; }
		case 14: if (draw() % 4 == 0) { id = pick(1); printf("semrm %d ", index_of(1, id)); said("", semctl(id, 0, IPC_RMID, 0)); } else printf("-\n"); break;
		case 15: case 16: { id = pick(0); int f = OF(0, 0, SHM_RDONLY, SHM_RND, SHM_REMAP, SHM_EXEC, 0x40, 0xfff); char *p = draw() % 3 ? NULL : pointer(4096); if (geteuid() || p == (char *)8) p = NULL; /* the kernel lets root map there, and looks at permission first */ if (p >= page - 8192 && p < page + 5 * 4096 && f & SHM_REMAP) p = NULL; int slot = draw() % 16; if (at[slot]) { printf("-\n"); break; }
			errno = 0; char *got = shmat(id, p, f); printf("shmat %d %o %s ", index_of(0, id), f, p ? "p" : "-"); said("", got == (char *)-1 ? -1 : 0); if (got != (char *)-1) { at[slot] = got; } break; }
		case 17: { int slot = draw() % 16; char *p = at[slot]; if (p == 0 || draw() % 8 == 0) p = pointer(4096); else { at[slot] = 0; if (draw() % 6 == 0) { p += 8; } } printf("shmdt "); said("", shmdt(p)); break; }
		case 18: { id = pick(0); int cmd = OF(IPC_STAT, IPC_STAT, SHM_LOCK, SHM_UNLOCK, IPC_INFO, SHM_INFO, 99, -1, 0x100 | IPC_STAT); void *p = pointer(112); printf("shmctl %d %d ", index_of(0, id), cmd); r = shmctl(id, cmd, p); said("", r < 0 ? r : 0); break; }
		case 19: { struct shmid_ds d; id = pick(0); memset(&d, 0, sizeof d); r = shmctl(id, IPC_STAT, &d); printf("shmstat %d %o %zu %lu %d ", index_of(0, id), d.shm_perm.mode, d.shm_segsz, d.shm_nattch, d.shm_atime != 0); said("", r); break; }
		case 20: if (draw() % 4 == 0) { id = pick(0); printf("shmrm %d ", index_of(0, id)); said("", shmctl(id, IPC_RMID, 0)); } else printf("-\n"); break;
		case 21: case 22: { id = pick(2); size_t size = (size_t[]){0, 1, 8, 100, 2000, 8192, 8193, (size_t)-1, 1ul << 63, 1ul << 32}[draw() % 10]; static struct { long t; char x[9000]; } m; m.t = OF(1, 2, 3, 0, -1, 0x7fffffff); void *p = draw() % 4 ? (void *)&m : pointer(size % 64 + 8); printf("msgsnd %d %zx %ld %s ", index_of(2, id), size, m.t, p == &m ? "m" : "p"); said("", msgsnd(id, p, size, IPC_NOWAIT | OF(0, 0, 0x100000, MSG_EXCEPT))); break; }
		case 23: case 24: { id = pick(2); size_t size = (size_t[]){0, 1, 8, 100, 2000, 8192, 9000, (size_t)-1, 1ul << 63}[draw() % 9]; static struct { long t; char x[9000]; } m; long t = (long[]){0, 1, 2, 3, -1, -2, -100, 7, (long)1 << 63, 0x7fffffffffffffff}[draw() % 10]; int f = IPC_NOWAIT | OF(0, MSG_NOERROR, MSG_EXCEPT, 040000, 040000 | MSG_NOERROR, 040000 | MSG_EXCEPT, 0x100000); void *p = size <= 9000 && draw() % 4 ? (void *)&m : size <= 9000 || 1 ? pointer(size % 64 + 8) : 0; memset(&m, 0, sizeof m); printf("msgrcv %d %zx %ld %o %s ", index_of(2, id), size, t, f, p == &m ? "m" : "p"); r = msgrcv(id, p, size, t, f); printf("%ld ", p == &m ? m.t : 0); said("", r); break; }
		case 25: { struct msqid_ds d; id = pick(2); if (draw() % 8 == 0) { printf("msgrm %d ", index_of(2, id)); said("", msgctl(id, IPC_RMID, 0)); break; } memset(&d, 0, sizeof d); int cmd = OF(IPC_STAT, IPC_STAT, IPC_SET, MSG_INFO, 77); d.msg_qbytes = OF(0, 1, 100, 16384); d.msg_perm.mode = 0600; r = msgctl(id, cmd, draw() % 5 ? &d : pointer(100)); if (cmd == IPC_STAT && r == 0) printf("msgstat %d %lu %lu %lu ", index_of(2, id), d.msg_qnum, d.__msg_cbytes, d.msg_qbytes); else printf("msgctl %d %d ", index_of(2, id), cmd); said("", r < 0 ? r : 0); break; }
		}
	}
	fflush(stdout); if (root && seteuid(0)) return 1;
	for (int k = 0; k < 3; k++) for (int i = 0; i < 64 && i < made[k]; i++) { if (k == 0) shmctl(ids[k][i], IPC_RMID, 0); if (k == 1) semctl(ids[k][i], 0, IPC_RMID); if (k == 2) msgctl(ids[k][i], IPC_RMID, 0); }
	return 0;
}
