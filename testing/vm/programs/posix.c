/* POSIX semaphores and condition variables that two processes keep in a System V segment. It knows nothing of Vshmem. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS 100
#define CHECK(what) do { if (!(what)) { fprintf(stderr, "line %d: %s\n", __LINE__, #what); exit(1); } } while (0)

struct shared {
	sem_t full, empty;
	pthread_mutex_t mutex;
	pthread_cond_t turned, monotonic;
	int item, turn, sum;
};

static struct shared *s;

static void in_turn(int me)
{
	for (int i = 0; i < ROUNDS; i++) {
		/* A guest's kernel cannot wait for a mutex in a segment, which is a known limit: so this does not ask it to. */
		while (pthread_mutex_trylock(&s->mutex) == EBUSY)
			usleep(50);
		while (s->turn != me)
			CHECK(pthread_cond_wait(&s->turned, &s->mutex) == 0);
		s->turn = !me;
		CHECK(pthread_cond_broadcast(&s->turned) == 0);
		CHECK(pthread_mutex_unlock(&s->mutex) == 0);
	}
}

static double since(clockid_t clock, struct timespec start)
{
	struct timespec now;
	clock_gettime(clock, &now);
	return now.tv_sec - start.tv_sec + (now.tv_nsec - start.tv_nsec) / 1e9;
}

/* Deadlines a second ahead are kept, by the clock that was asked for. */
static void deadlines(void)
{
	struct timespec start, end;
	clock_gettime(CLOCK_REALTIME, &start);
	end = start, end.tv_sec++;
	CHECK(sem_timedwait(&s->full, &end) == -1 && errno == ETIMEDOUT);
	CHECK(since(CLOCK_REALTIME, start) > 0.99 && since(CLOCK_REALTIME, start) < 10);
	clock_gettime(CLOCK_MONOTONIC, &start);
	end = start, end.tv_sec++;
	int result;
	CHECK(pthread_mutex_lock(&s->mutex) == 0);
	do
		result = pthread_cond_timedwait(&s->monotonic, &s->mutex, &end);
	while (result == 0);
	CHECK(pthread_mutex_unlock(&s->mutex) == 0);
	CHECK(result == ETIMEDOUT);
	CHECK(since(CLOCK_MONOTONIC, start) > 0.99 && since(CLOCK_MONOTONIC, start) < 10);
}

/* A thread that waits for a private semaphore can be cancelled. */
static sem_t never;

static void *waits(void *unused)
{
	sem_wait(&never);
	return unused;
}

static void cancellation(void)
{
	pthread_t thread;
	void *result;
	CHECK(sem_init(&never, 0, 0) == 0);
	CHECK(pthread_create(&thread, NULL, waits, NULL) == 0);
	usleep(50000);
	CHECK(pthread_cancel(thread) == 0);
	CHECK(pthread_join(thread, &result) == 0 && result == PTHREAD_CANCELED);
}

int main(void)
{
	int id = shmget(IPC_PRIVATE, sizeof *s, 0600);
	CHECK(id >= 0);
	s = shmat(id, NULL, 0);
	CHECK(s != (void *)-1 && shmctl(id, IPC_RMID, NULL) == 0);
	pthread_mutexattr_t mutex;
	pthread_mutexattr_init(&mutex);
	pthread_mutexattr_setpshared(&mutex, PTHREAD_PROCESS_SHARED);
	CHECK(pthread_mutex_init(&s->mutex, &mutex) == 0);
	pthread_condattr_t cond;
	pthread_condattr_init(&cond);
	pthread_condattr_setpshared(&cond, PTHREAD_PROCESS_SHARED);
	CHECK(pthread_cond_init(&s->turned, &cond) == 0);
	pthread_condattr_setclock(&cond, CLOCK_MONOTONIC);
	CHECK(pthread_cond_init(&s->monotonic, &cond) == 0);
	CHECK(sem_init(&s->full, 1, 0) == 0 && sem_init(&s->empty, 1, 1) == 0);

	pid_t child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		for (int i = 1; i <= ROUNDS; i++) {
			CHECK(sem_wait(&s->empty) == 0);
			s->item = i;
			CHECK(sem_post(&s->full) == 0);
		}
		in_turn(1);
		_exit(0);
	}
	for (int i = 0; i < ROUNDS; i++) {
		CHECK(sem_wait(&s->full) == 0);
		s->sum += s->item;
		CHECK(sem_post(&s->empty) == 0);
	}
	in_turn(0);
	int status;
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	CHECK(s->sum == ROUNDS * (ROUNDS + 1) / 2);
	deadlines();
	cancellation();
	puts("well");
	return 0;
}
