<?php
// Two sides: `meet.php answer` and `meet.php ask`, in any two domains; and `meet.php count`: four processes under one semaphore.
$key = 0x7e72;
// msg_get_queue looks first and makes then: two that do so at once get in each other's way.
while ($argv[1] == 'ask' && !msg_queue_exists($key)) usleep(10000);
$queue = msg_get_queue($key, 0600);
switch ($argv[1]) {
case 'ask':
	msg_send($queue, 1, ['name' => 'php']);
	msg_receive($queue, 2, $type, 1000, $size);
	// Made by the other side: its size is what the other side chose.
	$segment = shmop_open($key, 'a', 0, 0);
	echo 'heard: ', rtrim(shmop_read($segment, 0, shmop_size($segment)), "\0"), "\n";
	msg_send($queue, 3, 'thanks');
	break;
case 'answer':
	msg_receive($queue, 1, $type, 1000, $asked);
	$text = "hello, $asked[name]";
	$segment = shmop_open($key, 'c', 0600, 100);
	shmop_write($segment, $text, 0);
	msg_send($queue, 2, strlen($text));
	msg_receive($queue, 3, $type, 1000, $thanks);
	shmop_delete($segment);
	msg_remove_queue($queue);
	break;
case 'count':
	$variables = shm_attach($key + 1, 10000, 0600);
	$semaphore = sem_get($key + 1, 1, 0600, true);
	shm_put_var($variables, 1, ['count' => 0]);
	for ($child = 0; $child < 4; $child++) {
		if (pcntl_fork()) continue;
		for ($i = 0; $i < 100; $i++) {
			sem_acquire($semaphore);
			$all = shm_get_var($variables, 1);
			$all['count']++;
			shm_put_var($variables, 1, $all);
			sem_release($semaphore);
		}
		msg_send($queue, 4, $child);
		exit(0);
	}
	for ($child = 0; $child < 4; $child++) {
		msg_receive($queue, 4, $type, 1000, $done);
		pcntl_wait($status);
	}
	echo 'counted ', shm_get_var($variables, 1)['count'], "\n";
	shm_remove($variables);
	sem_remove($semaphore);
	msg_remove_queue($queue);
	break;
}
