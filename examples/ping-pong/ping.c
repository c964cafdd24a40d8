/* ping [TURNS]: writes into shared memory, wakes pong, waits for the answer. Prints every exchange, or with more than
 * ten turns the median time of one. Start pong before or after, anywhere that sees the same System V IPC. */
#include "exchange.h"
#include <time.h>
#include <unistd.h>

static double micros(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1e6 + now.tv_nsec / 1e3;
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
	int turns = argc > 1 ? atoi(argv[1]) : 3;
	if (turns < 1 || turns > 10000000)
		return fprintf(stderr, "ping: 1 to 10000000 turns\n"), 2;
	/* One clock reading for many turns: in some virtual machines reading the clock takes longer than a turn. */
	int talk = turns <= 10, batch = talk ? 1 : turns < 1000 ? 10 : 100, batches = turns / batch;
	double *times = calloc(batches + 1, sizeof *times);
	struct page *page;
	int shm = segment(&page), sem = semaphores(), pid = getpid();
	if (!times)
		fail("calloc");
	for (int b = 0; b < batches; b++) {
		double start = micros();
		for (int i = 0; i < batch; i++) {
			snprintf(page->text, sizeof page->text, "ping %d from process %d", b * batch + i + 1, pid);
			change(sem, TO_PONG, 1);
			change(sem, TO_PING, -1);
			if (talk) {
				printf("pong answers: %s\n", page->text);
				fflush(stdout);
			}
		}
		times[b] = (micros() - start) / batch;
	}
	if (!talk) {
		qsort(times, batches, sizeof *times, ascending);
		printf("round trip %.2f us\n", times[batches / 2]);
	}
	/* The segment first: that the semaphores are gone tells pong that all is. */
	if (shmdt(page) < 0)
		fail("shmdt");
	if (shmctl(shm, IPC_RMID, NULL) < 0 || semctl(sem, 0, IPC_RMID) < 0)
		fail("IPC_RMID");
	return 0;
}
