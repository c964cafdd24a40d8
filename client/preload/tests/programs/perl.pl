# Perl's own System V IPC: modules and built-in functions.
use strict;
use IPC::SysV qw(IPC_PRIVATE IPC_RMID IPC_NOWAIT S_IRUSR S_IWUSR SEM_UNDO);
use IPC::Semaphore;
use IPC::Msg;

my $set = IPC::Semaphore->new(IPC_PRIVATE, 3, S_IRUSR | S_IWUSR) or die "semget: $!";
$set->setall(1, 2, 3);
die "getall" unless join(",", $set->getall) eq "1,2,3";
$set->op(1, -1, SEM_UNDO) or die "semop: $!";
die "getval" unless $set->getval(1) == 1 and $set->getpid(1) == $$;
die "nsems" unless $set->stat->nsems == 3;
$set->remove;

my $queue = IPC::Msg->new(IPC_PRIVATE, S_IRUSR | S_IWUSR) or die "msgget: $!";
$queue->snd(4, "hello") or die "msgsnd: $!";
die "qnum" unless $queue->stat->qnum == 1;
my $text;
die "msgrcv" unless $queue->rcv($text, 100, 4, IPC_NOWAIT) == 4 and $text eq "hello";
$queue->remove;

my $segment = shmget(IPC_PRIVATE, 100, 0600) or die "shmget: $!";
shmwrite($segment, "text", 10, 4) or die "shmwrite: $!";
shmread($segment, $text, 10, 4) or die "shmread: $!";
die "shm" unless $text eq "text";
shmctl($segment, IPC_RMID, 0) or die "shmctl: $!";
