// Two sides of a conversation through Boost.Interprocess's System V segment: `meet answer` and `meet ask`, in any two domains.
#include <boost/interprocess/mapped_region.hpp>
#include <boost/interprocess/xsi_key.hpp>
#include <boost/interprocess/xsi_shared_memory.hpp>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <new>
#include <string>
#include <thread>

using namespace boost::interprocess;

struct Conversation {
	std::atomic<int> stage; // 0 nothing, 1 asked, 2 answered, 3 heard
	char text[100];
};

static void await(std::atomic<int> &stage, int value)
{
	while (stage.load() != value)
		std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

int main(int argc, char **argv)
{
	// A key of a path is not the same in every domain; a number is.
	xsi_key key(0x7e75);
	xsi_shared_memory segment(open_or_create, key, sizeof(Conversation), 0600);
	mapped_region region(segment, read_write);
	// New segments are all zero: a conversation that has not begun.
	auto *here = static_cast<Conversation *>(region.get_address());
	if (argc > 1 && std::string(argv[1]) == "ask") {
		std::strcpy(here->text, "boost");
		here->stage = 1;
		await(here->stage, 2);
		std::cout << "heard: " << here->text << " (" << region.get_size() << " bytes)" << std::endl;
		here->stage = 3;
	} else {
		await(here->stage, 1);
		std::string text = std::string("hello, ") + here->text;
		std::strcpy(here->text, text.c_str());
		here->stage = 2;
		await(here->stage, 3);
		// The segment goes when the other side has let go as well.
		xsi_shared_memory::remove(segment.get_shmid());
	}
}
