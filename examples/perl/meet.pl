#!/usr/bin/perl
# Two sides of a conversation through System V IPC: `meet.pl answer` and `meet.pl ask`, in any order, in any two domains.
use strict;
use warnings;
use IPC::SysV qw(IPC_CREAT IPC_EXCL IPC_RMID SEM_UNDO);

my ($side) = @ARGV;
my $key = 0x7e71;

# Both may make them; neither minds that the other has.
my $segment = shmget($key, 4096, IPC_CREAT | 0600) // die "shmget: $!";
my $set     = semget($key, 2, IPC_CREAT | 0600)    // die "semget: $!";
my $queue   = msgget($key, IPC_CREAT | 0600)       // die "msgget: $!";

sub semaphore { my ($number, $change) = @_; semop($set, pack 's3', $number, $change, 0) or die "semop: $!" }

if ($side eq 'ask') {
	msgsnd($queue, pack('l! a*', 1, 'perl'), 0) or die "msgsnd: $!";
	semaphore(0, -1);
	shmread($segment, my $text, 0, 4096) or die "shmread: $!";
	$text =~ s/\0.*//s;
	print "heard: $text\n";
	semaphore(1, 1);
} else {
	msgrcv($queue, my $message, 100, 1, 0) or die "msgrcv: $!";
	my ($type, $name) = unpack 'l! a*', $message;
	shmwrite($segment, "hello, $name\0", 0, 4096) or die "shmwrite: $!";
	semaphore(0, 1);
	semaphore(1, -1);
	shmctl($segment, IPC_RMID, 0);
	semctl($set, 0, IPC_RMID, 0);
	msgctl($queue, IPC_RMID, 0);
}
