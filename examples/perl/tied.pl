#!/usr/bin/perl
# Four processes count in one tied variable, a segment under a lock made of semaphores, by IPC::Shareable.
use strict;
use warnings;
use IPC::Shareable;
use POSIX ();

my %options = (create => 1, mode => 0600, destroy => 1);
tie my $count, 'IPC::Shareable', 'cnt1', {%options};
tie my %table, 'IPC::Shareable', 'tab1', {%options};
$count = 0;
my @children;
for my $child (1 .. 4) {
	my $pid = fork // die "fork: $!";
	if ($pid) { push @children, $pid; next }
	for (1 .. 25) { (tied $count)->lock; $count++; (tied $count)->unlock }
	(tied %table)->lock;
	$table{$child} = 'done';
	(tied %table)->unlock;
	POSIX::_exit(0);
}
waitpid $_, 0 for @children;
print "counted $count, ", join(' ', map { "$_ $table{$_}" } sort keys %table), "\n";
IPC::Shareable->clean_up_all;
