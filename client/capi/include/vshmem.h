/* vshmem.h: System V shared memory, semaphores and message queues between virtual machines, without a preload library.
 *
 * Every function is System V's of the same name with vshmem_ before it: same arguments, same result, same errno, described in the manual
 * pages named beside it. A daemon must run: `vshmem serve` on the host, `vshmem join` in a guest; without one every call gives ENOSYS.
 *
 *     cc program.c $(pkg-config --cflags --libs vshmem)
 *
 * With VSHMEM_REPLACE_SYSV defined before this file is included, the plain names mean Vshmem's in this source file.
 *
 * Safe to call from several threads; not from signal handlers.
 */
#ifndef VSHMEM_H
#define VSHMEM_H

#include <stddef.h>
#include <sys/types.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <time.h>

#ifdef __cplusplus
extern "C" {
#endif

/* shmget(2), shmop(2), shmctl(2) */
int vshmem_shmget(key_t key, size_t size, int shmflg);
void *vshmem_shmat(int shmid, const void *shmaddr, int shmflg);
int vshmem_shmdt(const void *shmaddr);
int vshmem_shmctl(int shmid, int cmd, struct shmid_ds *buf);

/* semget(2), semop(2), semctl(2): the fourth argument is a union semun, or absent */
int vshmem_semget(key_t key, int nsems, int semflg);
int vshmem_semop(int semid, struct sembuf *sops, size_t nsops);
int vshmem_semtimedop(int semid, struct sembuf *sops, size_t nsops, const struct timespec *timeout);
int vshmem_semctl(int semid, int semnum, int cmd, ...);

/* msgget(2), msgop(2), msgctl(2) */
int vshmem_msgget(key_t key, int msgflg);
int vshmem_msgsnd(int msqid, const void *msgp, size_t msgsz, int msgflg);
ssize_t vshmem_msgrcv(int msqid, void *msgp, size_t msgsz, long msgtyp, int msgflg);
int vshmem_msgctl(int msqid, int cmd, struct msqid_ds *buf);

/* The name of the caller's domain, cut to size bytes with the ending zero; its whole length, or -1 with errno. */
ssize_t vshmem_domain(char *name, size_t size);

#ifdef VSHMEM_REPLACE_SYSV
#define shmget vshmem_shmget
#define shmat vshmem_shmat
#define shmdt vshmem_shmdt
#define shmctl vshmem_shmctl
#define semget vshmem_semget
#define semop vshmem_semop
#define semtimedop vshmem_semtimedop
#define semctl vshmem_semctl
#define msgget vshmem_msgget
#define msgsnd vshmem_msgsnd
#define msgrcv vshmem_msgrcv
#define msgctl vshmem_msgctl
#endif

#ifdef __cplusplus
}
#endif

#endif
