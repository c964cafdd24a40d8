#!/usr/bin/ruby
# Two sides of a conversation through System V IPC: `meet.rb answer` and `meet.rb ask`, in any two domains.
# Ruby has no System V IPC of its own: Fiddle, of its standard library, calls libc's functions.
require 'fiddle'

module C
	P, I, L, S = Fiddle::TYPE_VOIDP, Fiddle::TYPE_INT, Fiddle::TYPE_LONG, Fiddle::TYPE_SIZE_T
	def self.function(name, arguments, result)
		call = Fiddle::Function.new(Fiddle::Handle::DEFAULT[name], arguments, result)
		define_singleton_method(name) do |*values|
			answer = call.call(*values)
			raise SystemCallError.new(name, Fiddle.last_error) if answer.to_i == -1
			answer
		end
	end
	function 'shmget', [I, S, I], I
	function 'shmat', [I, P, I], P
	function 'shmdt', [P], I
	function 'shmctl', [I, I, P], I
	function 'semget', [I, I, I], I
	function 'semop', [I, P, S], I
	function 'semctl', [I, I, I], I
	function 'msgget', [I, I], I
	function 'msgsnd', [I, P, S, I], I
	function 'msgrcv', [I, P, S, L, I], L
	function 'msgctl', [I, I, P], I
end

KEY, CREATE, REMOVE = 0x7e74, 0o1600, 0
segment = C.shmget(KEY, 4096, CREATE)
set = C.semget(KEY, 2, CREATE)
queue = C.msgget(KEY, CREATE)
memory = Fiddle::Pointer.new(C.shmat(segment, nil, 0).to_i, 4096)
semaphore = ->(number, change) { C.semop(set, [number, change, 0].pack('Sss'), 1) }

if ARGV[0] == 'ask'
	C.msgsnd(queue, [1, 'ruby'].pack('qa*'), 4, 0)
	semaphore.(0, -1)
	puts "heard: #{memory.to_s}"
	semaphore.(1, 1)
	C.shmdt(memory)
else
	message = "\0" * 108
	length = C.msgrcv(queue, message, 100, 1, 0)
	text = "hello, #{message[8, length]}\0"
	memory[0, text.bytesize] = text
	semaphore.(0, 1)
	semaphore.(1, -1)
	C.shmdt(memory)
	C.shmctl(segment, REMOVE, nil)
	C.semctl(set, 0, REMOVE)
	C.msgctl(queue, REMOVE, nil)
end
