#!/bin/sh
# Makes a PostgreSQL cluster with System V memory alone, works on it, kills a back-end of its own, and tries a second server. As root: it becomes postgres.
set -e
if [ "$(id -u)" = 0 ]; then
	# All of it happens in a folder of that user's.
	folder=$(mktemp -d); chown postgres "$folder"
	exec setpriv --reuid=postgres --regid=postgres --init-groups sh -s "$folder" <"$0"
fi
cd "$1"
bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1)
psql() { "$bin/psql" -h "$PWD" -At -c "$1" postgres; }
balanced() { psql 'select (select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history)'; }

"$bin/initdb" -D data -A trust -N >initdb.log
cat >>data/postgresql.conf <<END
shared_memory_type = sysv
dynamic_shared_memory_type = sysv
listen_addresses = ''
unix_socket_directories = '$PWD'
shared_buffers = 16MB
max_connections = 20
END
"$bin/pg_ctl" -D data -l log -w start >start.log
trap '"$bin/pg_ctl" -D data -m immediate stop >stop.log 2>&1' EXIT

"$bin/pgbench" -h "$PWD" -i -q postgres >pgbench.log 2>&1
"$bin/pgbench" -h "$PWD" -c 4 -T 5 postgres >>pgbench.log 2>&1
echo "after pgbench: balanced: $(balanced)"

"$bin/pgbench" -n -h "$PWD" -c 4 -T 20 postgres >>pgbench.log 2>&1 &
sleep 1
kill -9 "$(psql "select pid from pg_stat_activity where application_name = 'pgbench' limit 1")"
wait
until psql 'select 1' >again.log 2>&1; do sleep 0.2; done
echo "after kill -9 of a back-end: balanced: $(balanced)"

mv data/postmaster.pid kept
"$bin/postgres" -D data 2>&1 | grep -o 'pre-existing shared memory block\|is still in use'
mv kept data/postmaster.pid
"$bin/pg_ctl" -D data -m fast -w stop >stop.log
trap - EXIT
