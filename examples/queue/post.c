/* post: sends letters of several urgencies, then tells the inbox that it may read, and waits until it has. */
#include "letter.h"
#include <string.h>

static void post(int id, long type, const char *text)
{
	struct letter letter = { .type = type };
	snprintf(letter.text, sizeof letter.text, "%s", text);
	printf("posted  (%ld) %s\n", type, text);
	fflush(stdout);
	if (msgsnd(id, &letter, strlen(letter.text) + 1, 0) < 0)
		fail("msgsnd");
}

int main(void)
{
	struct letter letter;
	int id = queue();
	post(id, NEWS, "rain in the afternoon");
	post(id, NOTICE, "the lift is out of order");
	post(id, ALARM, "the building is on fire");
	post(id, NEWS, "sun in the evening");
	letter.type = READY;
	if (msgsnd(id, &letter, 0, 0) < 0)
		fail("msgsnd");
	if (msgrcv(id, &letter, sizeof letter.text, END, 0) < 0)
		fail("msgrcv");
	if (msgctl(id, IPC_RMID, NULL) < 0)
		fail("IPC_RMID");
	return 0;
}
