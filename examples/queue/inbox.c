/* inbox: waits until the letters are there and reads them, the most urgent first. */
#include "letter.h"

int main(void)
{
	struct letter letter;
	int id = queue();
	/* A message without text, of a type of its own: a signal. */
	if (msgrcv(id, &letter, sizeof letter.text, READY, 0) < 0)
		fail("msgrcv");
	for (;;) {
		/* A negative type takes the lowest type up to its absolute value. */
		if (msgrcv(id, &letter, sizeof letter.text, -NEWS, IPC_NOWAIT) < 0)
			break;
		letter.text[sizeof letter.text - 1] = 0;
		printf("received (%ld) %s\n", letter.type, letter.text);
		fflush(stdout);
	}
	letter.type = END;
	if (msgsnd(id, &letter, 0, 0) < 0)
		fail("msgsnd");
	return 0;
}
