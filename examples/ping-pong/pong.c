/* pong: waits for ping, reads what it wrote into shared memory and answers in its place, until ping takes the semaphores
 * away. */
#include "exchange.h"
#include <errno.h>
#include <string.h>
#include <unistd.h>

int main(void)
{
	struct page *page;
	int pid = getpid(), sem = semaphores();
	segment(&page);
	for (;;) {
		struct sembuf wait = { .sem_num = TO_PONG, .sem_op = -1 };
		char heard[60];
		if (semop(sem, &wait, 1) < 0) {
			if (errno == EIDRM || errno == EINVAL) /* removed while it waited, or just before */
				break;
			fail("semop");
		}
		memcpy(heard, page->text, sizeof heard);
		heard[sizeof heard - 1] = 0;
		snprintf(page->text, sizeof page->text, "process %d heard \"%s\"", pid, heard);
		change(sem, TO_PING, 1);
	}
	if (shmdt(page) < 0)
		fail("shmdt");
	return 0;
}
