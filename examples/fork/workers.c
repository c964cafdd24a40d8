/* workers: a parent and five children count in shared memory under a semaphore with SEM_UNDO. One child is killed while it
 * holds the semaphore; the others go on, because the kernel (or Vshmem) gives back what the dead one held. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ipc.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CHILDREN = 5, TURNS = 200 };

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void change(int sem, int by)
{
	struct sembuf op = { .sem_num = 0, .sem_op = by, .sem_flg = SEM_UNDO };
	if (semop(sem, &op, 1) < 0)
		fail("semop");
}

static void child(int number, int sem, volatile long *count)
{
	if (number == 0) {
		change(sem, -1);
		raise(SIGKILL);
	}
	for (int i = 0; i < TURNS; i++) {
		change(sem, -1);
		long seen = *count;
		if (i % 50 == 0)
			usleep(1);
		*count = seen + 1;
		change(sem, 1);
	}
	exit(0);
}

int main(void)
{
	int shm = shmget(IPC_PRIVATE, sizeof(long), IPC_CREAT | 0600);
	int sem = semget(IPC_PRIVATE, 1, IPC_CREAT | 0600);
	if (shm < 0 || sem < 0)
		fail("get");
	volatile long *count = shmat(shm, NULL, 0);
	if (count == (void *)-1)
		fail("shmat");
	/* Attached here: the children inherit it. It goes away with the last of us. */
	if (shmctl(shm, IPC_RMID, NULL) < 0)
		fail("IPC_RMID");
	struct sembuf free_it = { .sem_num = 0, .sem_op = 1 };
	if (semop(sem, &free_it, 1) < 0)
		fail("semop");
	fflush(stdout);
	for (int i = 0; i < CHILDREN; i++) {
		pid_t pid = fork();
		if (pid < 0)
			fail("fork");
		if (pid == 0)
			child(i, sem, count);
	}
	int killed = 0, failed = 0, status;
	while (wait(&status) > 0) {
		if (WIFSIGNALED(status))
			killed++;
		else if (WEXITSTATUS(status))
			failed++;
	}
	int left = semctl(sem, 0, GETVAL);
	if (semctl(sem, 0, IPC_RMID) < 0)
		fail("IPC_RMID");
	printf("%ld turns counted, %d child killed, semaphore back at %d\n", *count, killed, left);
	return *count == (CHILDREN - 1) * TURNS && killed == 1 && !failed && left == 1 ? 0 : 1;
}
