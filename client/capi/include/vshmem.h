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

/* Where a strict C standard hides it. */
struct timespec;

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

/* Teams: a fixed number of processes, in any domains, that meet in collectives. All call the same ones in the same order, with the same root,
 * type, operation and count. Each function gives 0 (a team: a pointer), or -1 (NULL) with errno:
 *
 *     EOWNERDEAD  a party died or left before it had done its part; the team is of no use any more: leave it
 *     EINVAL      no such number of parties (1 to 256), rank, root, type or operation; the key is one of a team of another size; or the team is not
 *                 this process's but its parent's: a forked child is not in the team
 *     ETIMEDOUT   not all parties came in time      EBUSY  the team of this key is complete and at work
 *     EEXIST      another party has this rank       and what semop(2) and shmget(2) say
 */
typedef struct vshmem_team vshmem_team;
enum vshmem_type { VSHMEM_I32, VSHMEM_U32, VSHMEM_I64, VSHMEM_U64, VSHMEM_F32, VSHMEM_F64 };
enum vshmem_reduction { VSHMEM_SUM, VSHMEM_PRODUCT, VSHMEM_MIN, VSHMEM_MAX, VSHMEM_AND, VSHMEM_OR, VSHMEM_XOR };

/* Joins the team of a key as rank (-1: the lowest that is free) and waits until all parties have, at most for a time (NULL: 60 s). */
vshmem_team *vshmem_team_join(key_t key, int parties, int rank, const struct timespec *patience);
int vshmem_team_rank(const vshmem_team *team);
int vshmem_team_parties(const vshmem_team *team);
/* Waits until all have come here. */
int vshmem_team_barrier(vshmem_team *team);
/* Gives everybody the bytes of root. */
int vshmem_team_broadcast(vshmem_team *team, int root, void *bytes, size_t size);
/* Combines everybody's numbers one by one: the root's, or everybody's, are replaced by the result. */
int vshmem_team_reduce(vshmem_team *team, int root, enum vshmem_type type, enum vshmem_reduction op, void *numbers, size_t count);
int vshmem_team_allreduce(vshmem_team *team, enum vshmem_type type, enum vshmem_reduction op, void *numbers, size_t count);
/* Leaves; the key's constructs stay for the next team. The pointer is not used any more. */
void vshmem_team_leave(vshmem_team *team);
/* Leaves; rank 0 waits until all others do so and removes the key's constructs. The pointer is not used any more, whatever is returned. */
int vshmem_team_disband(vshmem_team *team);

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
