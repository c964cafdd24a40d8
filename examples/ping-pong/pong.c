/* pong: waits for ping, reads what it wrote into shared memory and answers in its place, until the last one. */
#include "exchange.h"
#include <string.h>
#include <unistd.h>

int main(void)
{
	struct page *page;
	int pid = getpid(), sem = semaphores(), last;
	segment(&page);
	do {
		char heard[60];
		change(sem, TO_PONG, -1);
		last = page->last;
		memcpy(heard, page->text, sizeof heard);
		heard[sizeof heard - 1] = 0;
		snprintf(page->text, sizeof page->text, "process %d heard \"%s\"", pid, heard);
		change(sem, TO_PING, 1);
	} while (!last);
	if (shmdt(page) < 0)
		fail("shmdt");
	return 0;
}
